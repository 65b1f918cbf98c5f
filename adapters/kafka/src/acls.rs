//! Access control lists of a broker. The client library's Rust interface has none, so this file calls its C interface.
//!
//! The only file of this crate in which `unsafe` is allowed. The function is safe to call; the reason stands next to its
//! `unsafe` block.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_int},
    fmt, ptr,
    time::Duration,
};

use rdkafka::admin::AdminClient;
use rdkafka_sys::{
    rd_kafka_AclBinding_destroy_array, rd_kafka_AclBinding_new, rd_kafka_AclOperation_t,
    rd_kafka_AclPermissionType_t, rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new,
    rd_kafka_AdminOptions_set_request_timeout, rd_kafka_CreateAcls, rd_kafka_CreateAcls_result_acls,
    rd_kafka_ResourcePatternType_t, rd_kafka_ResourceType_t, rd_kafka_acl_result_error, rd_kafka_admin_op_t,
    rd_kafka_error_string, rd_kafka_event_CreateAcls_result, rd_kafka_event_destroy, rd_kafka_event_error,
    rd_kafka_event_error_string, rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll,
    rd_kafka_resp_err_t,
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
        let operation = match self.operation {
            Operation::Read => "Read",
            Operation::Write => "Write",
            Operation::Describe => "Describe",
        };
        let resource = match self.resource {
            Resource::Topic => "topic",
            Resource::Group => "group",
        };
        let Self { principal, name, .. } = self;
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
