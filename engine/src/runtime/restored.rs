//! Judges successes from before a restore. They decide nothing: the engine asks again for what the restored sagas have
//! ordered. But the effect of a success may belong to a saga that was lost, or to a command that the restored saga never
//! sends because it takes another way. Such a success is a stray.
//!
//! Whether a saga orders the command again is known once it has ended. Until then the reply is deferred.

use std::collections::{HashMap, HashSet};

use amends_protocol::{Json, Kind, Reply, id, transport::Inbound};
use uuid::Uuid;

use super::{Engine, Error, replies::required};
use crate::{
    core::{Definition, Requires, Saga},
    port::{Clock, Deferral, DeferredReply, Loaded, SagaStore, Stray},
};

/// How long such a reply rests: its saga must have ended. Every rest is shorter than a minute.
const BEFORE_RESTORE_REST: std::time::Duration = std::time::Duration::from_secs(50);

/// What successes from before a restore are.
#[derive(Default)]
pub(super) struct BeforeRestore {
    /// Effects that no saga here has ordered.
    pub strays: Vec<Stray>,
    /// Successes that cannot be judged yet.
    pub deferred: Vec<DeferredReply>,
}

impl BeforeRestore {
    /// Judges successes, each with the index of its message.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn of<S: SagaStore, K, C: Clock>(
        engine: &Engine<S, K, C>,
        messages: &[Inbound],
        successes: &[(usize, Reply)],
    ) -> Result<Self, Error> {
        let mut judged = Self::default();
        if successes.is_empty() {
            return Ok(judged);
        }
        let ids: HashSet<Uuid> = successes.iter().map(|(_, reply)| reply.saga_id).collect();
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let Loaded { sagas, unreadable, unreachable, .. } = engine.store.load(&ids).await?;
        let sagas: HashMap<Uuid, Saga> = sagas.into_iter().map(|saga| (saga.id, saga)).collect();
        let unreadable: HashMap<Uuid, Requires> =
            unreadable.into_iter().map(|saga| (saga.saga_id, saga.requires)).collect();
        for (message, reply) in successes {
            let message = &messages[*message];
            let waits = match (sagas.get(&reply.saga_id), unreadable.get(&reply.saga_id)) {
                (Some(saga), _) => {
                    match engine.catalog.get(&saga.workflow, saga.workflow_version) {
                        None => Some((Deferral::UnknownWorkflow, Requires::of(saga))),
                        Some(definition) if orders(definition, saga, reply) => continue,
                        // It may still order it.
                        Some(_) if saga.outcome.is_none() => {
                            Some((Deferral::BeforeRestore, Requires::of(saga)))
                        }
                        Some(_) => None,
                    }
                }
                (None, Some(requires)) => Some((Deferral::Unreadable, requires.clone())),
                (None, None) if unreachable.contains(&reply.saga_id) => {
                    Some((Deferral::Unreachable, required(engine, message)))
                }
                (None, None) => None,
            };
            match waits {
                Some((why, requires)) => {
                    metrics::counter!("amends_engine_deferred_replies_total", "why" => why.as_str())
                        .increment(1);
                    judged.deferred.push(DeferredReply {
                        message: message.clone(),
                        saga_id: reply.saga_id,
                        slot: id::slot(reply.saga_id),
                        requires,
                        why,
                        rest: BEFORE_RESTORE_REST,
                    });
                }
                None => judged.strays.push(Stray {
                    saga_id: reply.saga_id,
                    command_id: reply.command_id,
                    reply: Json::of(reply).unwrap_or_default(),
                }),
            }
        }
        Ok(judged)
    }
}

/// Returns whether the saga has sent the command that the reply answers.
fn orders(definition: &Definition, saga: &Saga, reply: &Reply) -> bool {
    let mut commands = saga.state.commands.iter();
    commands.any(|command| {
        command.id(saga.id, definition) == reply.row_key()
            && (reply.kind != Kind::Compensate || command.undo.is_some())
    })
}
