//! Access control lists of a broker. The client library's Rust interface has none, so this file calls its C interface.
//!
//! One of two files of this crate in which `unsafe` is allowed. The functions are safe to call; the reason stands next to
//! each `unsafe` block.

#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int},
    fmt, ptr,
    time::Duration,
};

use rdkafka::admin::AdminClient;
use rdkafka_sys::{
    rd_kafka_AclBinding_destroy_array, rd_kafka_AclBinding_new, rd_kafka_AclOperation_t,
    rd_kafka_AclPermissionType_t, rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new,
    rd_kafka_AdminOptions_set_include_authorized_operations, rd_kafka_AdminOptions_set_request_timeout,
    rd_kafka_ConsumerGroupDescription_authorized_operations, rd_kafka_ConsumerGroupDescription_error,
    rd_kafka_ConsumerGroupDescription_group_id, rd_kafka_CreateAcls, rd_kafka_CreateAcls_result_acls,
    rd_kafka_DescribeConsumerGroups, rd_kafka_DescribeConsumerGroups_result_groups, rd_kafka_DescribeTopics,
    rd_kafka_DescribeTopics_result_topics, rd_kafka_ResourcePatternType_t, rd_kafka_ResourceType_t,
    rd_kafka_TopicCollection_destroy, rd_kafka_TopicCollection_of_topic_names,
    rd_kafka_TopicDescription_authorized_operations, rd_kafka_TopicDescription_error,
    rd_kafka_TopicDescription_name, rd_kafka_acl_result_error, rd_kafka_admin_op_t, rd_kafka_error_code,
    rd_kafka_error_destroy, rd_kafka_error_string, rd_kafka_error_t, rd_kafka_event_CreateAcls_result,
    rd_kafka_event_DescribeConsumerGroups_result, rd_kafka_event_DescribeTopics_result,
    rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_error_string, rd_kafka_queue_destroy,
    rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_resp_err_t,
};

use crate::{
    KafkaSettings,
    context::{self, Quiet},
    settings::Error,
};

/// How much longer than the broker the client is waited for.
const EVENT_GRACE: Duration = Duration::from_secs(2);
/// Room for a reason of the client library.
const REASON_BYTES: usize = 256;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
}

/// What an entry allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Receiving; of a group, membership.
    Read,
    /// Sending.
    Write,
    /// Seeing that it exists, and its partitions.
    Describe,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Group => "group",
        })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Describe => "Describe",
        })
    }
}

/// An entry: it allows a principal one operation on one resource, from any host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    /// The principal: `User:amends_payment`.
    pub principal: String,
    /// What the resource is.
    pub resource: Resource,
    /// Its name.
    pub name: String,
    /// What is allowed.
    pub operation: Operation,
}

/// The options of Apache Kafka's `kafka-acls.sh` that make the entry.
impl fmt::Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { principal, resource, name, operation } = self;
        write!(f, "--add --allow-principal '{principal}' --operation {operation} --{resource} {name}")
    }
}

/// Creates these entries; those that exist stay.
///
/// # Errors
/// [`Error::Settings`], or [`Error::Acls`]: the broker does not answer, has no authorizer, or does not allow it.
pub async fn create(settings: &KafkaSettings, acls: &[Acl], patience: Duration) -> Result<(), Error> {
    let admin: AdminClient<Quiet> =
        settings.client(&[]).create_with_context(Quiet).map_err(Error::Settings)?;
    let acls = acls.to_vec();
    let creating = tokio::task::spawn_blocking(move || create_with(&admin, &acls, patience));
    context::finished(creating).await.map_err(Error::Acls)
}

/// Asks what these settings' user may do with resources. Of one that it may not even see, nothing is returned as allowed;
/// one of which the broker does not tell, or that does not exist, is left out.
///
/// # Errors
/// [`Error::Settings`], or [`Error::Acls`]: the broker does not answer, or cannot tell (an embedded one).
pub async fn allowed(
    settings: &KafkaSettings,
    resource: Resource,
    names: &[String],
    patience: Duration,
) -> Result<BTreeMap<String, Vec<Operation>>, Error> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let admin: AdminClient<Quiet> =
        settings.client(&[]).create_with_context(Quiet).map_err(Error::Settings)?;
    let names = names.to_vec();
    let asking = tokio::task::spawn_blocking(move || allowed_by(&admin, resource, &names, patience));
    context::finished(asking).await.map_err(Error::Acls)
}

/// What the library says of one resource.
struct Described {
    name: *const c_char,
    error: *const rd_kafka_error_t,
    operations: *const rd_kafka_AclOperation_t,
    count: usize,
}

fn allowed_by(
    admin: &AdminClient<Quiet>,
    resource: Resource,
    names: &[String],
    patience: Duration,
) -> Result<BTreeMap<String, Vec<Operation>>, String> {
    let client = admin.inner().native_ptr();
    let text = |text: &String| CString::new(text.as_str()).map_err(|_| format!("{text:?} contains NUL"));
    let names = names.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let millis = |time: Duration| c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
    let kind = match resource {
        Resource::Topic => rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        Resource::Group => rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
    };
    // SAFETY: the client outlives this call, because the caller keeps it, and the names do too. Every object made here is
    // destroyed here, after its last use: names and options once the request is made (the library copies both), the
    // descriptions with their event. What they contain is copied before that.
    unsafe {
        let queue = rd_kafka_queue_new(client);
        let options = rd_kafka_AdminOptions_new(client, kind);
        rd_kafka_AdminOptions_set_request_timeout(options, millis(patience), ptr::null_mut(), 0);
        let refused = rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
        if !refused.is_null() {
            rd_kafka_error_destroy(refused);
        }
        match resource {
            Resource::Topic => {
                let topics = rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
                rd_kafka_DescribeTopics(client, topics, options, queue);
                rd_kafka_TopicCollection_destroy(topics);
            }
            Resource::Group => {
                rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options, queue)
            }
        }
        rd_kafka_AdminOptions_destroy(options);
        let event = rd_kafka_queue_poll(queue, millis(patience + EVENT_GRACE));
        let allowed = if event.is_null() {
            Err("no answer".to_owned())
        } else if rd_kafka_event_error(event) != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            Err(CStr::from_ptr(rd_kafka_event_error_string(event)).to_string_lossy().into_owned())
        } else {
            let mut count = 0;
            let mut described = Vec::new();
            match resource {
                Resource::Topic => {
                    let result = rd_kafka_event_DescribeTopics_result(event);
                    let topics = rd_kafka_DescribeTopics_result_topics(result, &mut count);
                    for index in 0..count {
                        let (topic, mut count) = (*topics.add(index), 0);
                        // The broker has left it out.
                        if topic.is_null() {
                            continue;
                        }
                        described.push(Described {
                            name: rd_kafka_TopicDescription_name(topic),
                            error: rd_kafka_TopicDescription_error(topic),
                            operations: rd_kafka_TopicDescription_authorized_operations(topic, &mut count),
                            count,
                        });
                    }
                }
                Resource::Group => {
                    let result = rd_kafka_event_DescribeConsumerGroups_result(event);
                    let groups = rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
                    for index in 0..count {
                        let (group, mut count) = (*groups.add(index), 0);
                        described.push(Described {
                            name: rd_kafka_ConsumerGroupDescription_group_id(group),
                            error: rd_kafka_ConsumerGroupDescription_error(group),
                            operations: rd_kafka_ConsumerGroupDescription_authorized_operations(
                                group, &mut count,
                            ),
                            count,
                        });
                    }
                }
            }
            Ok(described.iter().filter_map(|described| told(described)).collect())
        };
        if !event.is_null() {
            rd_kafka_event_destroy(event);
        }
        rd_kafka_queue_destroy(queue);
        allowed
    }
}

/// Copies what the broker has told of a resource.
///
/// # Safety
/// The pointers are those of a result that lives.
unsafe fn told(described: &Described) -> Option<(String, Vec<Operation>)> {
    use rd_kafka_AclOperation_t as Known;
    use rd_kafka_resp_err_t as Code;
    let &Described { name, error, operations, count } = described;
    // SAFETY: the caller's promise. Texts end with NUL; of operations there are `count`, unless there are none at all, and
    // the library puts nothing there that its enumeration does not have.
    unsafe {
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        let code =
            if error.is_null() { Code::RD_KAFKA_RESP_ERR_NO_ERROR } else { rd_kafka_error_code(error) };
        match code {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
            | Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED => return Some((name, Vec::new())),
            _ => return None,
        }
        if operations.is_null() {
            return None;
        }
        let ours = |index| match *operations.add(index) {
            Known::RD_KAFKA_ACL_OPERATION_READ => Some(Operation::Read),
            Known::RD_KAFKA_ACL_OPERATION_WRITE => Some(Operation::Write),
            Known::RD_KAFKA_ACL_OPERATION_DESCRIBE => Some(Operation::Describe),
            _ => None,
        };
        Some((name, (0..count).filter_map(ours).collect()))
    }
}

/// An entry whose texts C can read.
struct Texts {
    principal: CString,
    name: CString,
}

fn create_with(admin: &AdminClient<Quiet>, acls: &[Acl], patience: Duration) -> Result<(), String> {
    let client = admin.inner().native_ptr();
    let text = |text: &str| CString::new(text).map_err(|_| format!("{text:?} contains NUL"));
    let texts =
        |acl: &Acl| Ok::<_, String>(Texts { principal: text(&acl.principal)?, name: text(&acl.name)? });
    let texts = acls.iter().map(texts).collect::<Result<Vec<_>, _>>()?;
    let millis = |time: Duration| c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
    let mut reason: [c_char; REASON_BYTES] = [0; REASON_BYTES];
    // The client outlives this call, because the caller keeps it. Every object made here is destroyed here, after its last
    // use: the bindings and options once the request is made (the library copies both), the result with its event. Texts
    // that the library returns are copied before that.
    unsafe {
        let said = |text: *const c_char| match text.is_null() {
            true => String::new(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        };
        let mut bindings = Vec::with_capacity(acls.len());
        for (acl, texts) in acls.iter().zip(&texts) {
            let binding = rd_kafka_AclBinding_new(
                match acl.resource {
                    Resource::Topic => rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                    Resource::Group => rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP,
                },
                texts.name.as_ptr(),
                rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
                texts.principal.as_ptr(),
                c"*".as_ptr(),
                match acl.operation {
                    Operation::Read => rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ,
                    Operation::Write => rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE,
                    Operation::Describe => rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_DESCRIBE,
                },
                rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                reason.as_mut_ptr(),
                REASON_BYTES,
            );
            if binding.is_null() {
                rd_kafka_AclBinding_destroy_array(bindings.as_mut_ptr(), bindings.len());
                return Err(format!("{acl}: {}", said(reason.as_ptr())));
            }
            bindings.push(binding);
        }
        let queue = rd_kafka_queue_new(client);
        let options = rd_kafka_AdminOptions_new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEACLS);
        rd_kafka_AdminOptions_set_request_timeout(options, millis(patience), ptr::null_mut(), 0);
        rd_kafka_CreateAcls(client, bindings.as_mut_ptr(), bindings.len(), options, queue);
        rd_kafka_AdminOptions_destroy(options);
        rd_kafka_AclBinding_destroy_array(bindings.as_mut_ptr(), bindings.len());
        let event = rd_kafka_queue_poll(queue, millis(patience + EVENT_GRACE));
        let mut created = Ok(());
        if event.is_null() {
            created = Err("no answer".to_owned());
        } else if rd_kafka_event_error(event) != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            created = Err(said(rd_kafka_event_error_string(event)));
        } else {
            let mut count = 0;
            let results =
                rd_kafka_CreateAcls_result_acls(rd_kafka_event_CreateAcls_result(event), &mut count);
            for index in 0..count {
                let error = rd_kafka_acl_result_error(*results.add(index));
                if !error.is_null() {
                    created = Err(said(rd_kafka_error_string(error)));
                }
            }
        }
        if !event.is_null() {
            rd_kafka_event_destroy(event);
        }
        rd_kafka_queue_destroy(queue);
        created
    }
}
