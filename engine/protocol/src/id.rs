//! Ids that engine and workers can both compute: the same for all attempts, and after a restore.

use chrono::{DateTime, Utc};
use uuid::{Builder, Uuid};

use crate::{Kind, SLOTS};

/// An id ends with its slot: the bits of a UUID that name it.
const SLOT_BITS: u128 = SLOTS as u128 - 1;

/// Returns the slot of a saga, or of the order to which sagas belong, from its id: the id's last ten bits.
pub fn slot(id: Uuid) -> u16 {
    (id.as_u128() & SLOT_BITS) as u16
}

/// Returns the id with another slot.
pub fn at_slot(id: Uuid, slot: u16) -> Uuid {
    Uuid::from_u128(id.as_u128() & !SLOT_BITS | u128::from(slot) & SLOT_BITS)
}

/// Returns the id with another time of birth, to the millisecond.
pub fn dated(id: Uuid, at: DateTime<Utc>) -> Uuid {
    let millisecond = u128::try_from(at.timestamp_millis()).unwrap_or_default() & ((1 << 48) - 1);
    Uuid::from_u128(millisecond << 80 | id.as_u128() & ((1 << 80) - 1))
}

/// Computes a UUIDv8 (RFC 9562, 5.8). The first 48 bits are the namespace's. For a saga's UUIDv7 these are the
/// millisecond of its birth, so that rows keyed by command id are inserted at one end of a worker's index and not all
/// over it. The rest is the UUIDv5 (5.5) of the namespace and the name.
fn derived(namespace: Uuid, name: &[u8]) -> Uuid {
    let mut bytes = Uuid::new_v5(&namespace, name).into_bytes();
    bytes[..6].copy_from_slice(&namespace.as_bytes()[..6]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// Computes the id of an execute from the saga's id, step, part and generation.
pub fn execute(saga: Uuid, step: &str, part: u16, generation: u16) -> Uuid {
    derived(saga, format!("{step}/{part}/{generation}").as_bytes())
}

/// Computes the id of the compensation of an execute.
pub fn undo(target: Uuid) -> Uuid {
    derived(target, b"undo")
}

/// Computes the id of a command of the given kind about `target`; an execute is about itself.
pub fn of(kind: Kind, target: Uuid) -> Uuid {
    match kind {
        Kind::Execute => target,
        Kind::Compensate => undo(target),
        Kind::Probe => derived(target, b"probe"),
        Kind::Fence => derived(target, b"fence"),
    }
}

/// Returns the birth time of the saga to which a command id belongs: the id's first 48 bits are that millisecond.
pub fn born_at(id: Uuid) -> DateTime<Utc> {
    let millisecond = id.as_u128() >> 80;
    // 48 bits of milliseconds end in the year 10889.
    i64::try_from(millisecond)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_ends_with_its_slot_and_is_otherwise_unchanged() {
        let id = Uuid::now_v7();
        for slot in 0..SLOTS {
            let there = at_slot(id, slot);
            assert_eq!(super::slot(there), slot);
            assert_eq!(there.as_u128() >> 10, id.as_u128() >> 10);
            assert_eq!((there.get_version_num(), born_at(there)), (7, born_at(id)));
        }
    }

    #[test]
    fn an_id_is_dated_to_the_millisecond_and_is_otherwise_unchanged() {
        let (id, at) = (Uuid::now_v7(), DateTime::from_timestamp_micros(1_767_225_600_123_456).unwrap());
        let then = dated(id, at);
        assert_eq!(born_at(then).timestamp_millis(), at.timestamp_millis());
        assert_eq!((then.get_version_num(), slot(then)), (7, slot(id)));
        assert_eq!(then.as_u128() << 48, id.as_u128() << 48);
    }

    #[test]
    fn every_id_of_a_saga_names_the_millisecond_of_its_birth() {
        let born = DateTime::from_timestamp_millis(1_767_225_600_123).unwrap();
        let saga = Uuid::from_u128(1_767_225_600_123 << 80 | 0x7 << 76 | 9);
        let execute = execute(saga, "pay", 0, 1);
        for kind in [Kind::Execute, Kind::Compensate, Kind::Probe, Kind::Fence] {
            assert_eq!(born_at(super::of(kind, execute)), born, "{kind:?}");
        }
        assert!(born_at(Uuid::max()) > born);
    }

    #[test]
    fn ids_of_later_sagas_come_later_and_no_two_of_one_saga_are_the_same() {
        let [first, second] =
            [1, 2].map(|millisecond: u128| Uuid::from_u128(millisecond << 80 | 0x7 << 76 | 9));
        let of = |saga| {
            let executes = ["reserve", "pay"].map(|step| execute(saga, step, 0, 1));
            let kinds = [Kind::Execute, Kind::Compensate, Kind::Probe, Kind::Fence];
            executes.into_iter().flat_map(move |id| kinds.map(|kind| super::of(kind, id)))
        };
        assert!(of(first).max() < of(second).min());
        assert!(of(first).all(|id| id.get_version_num() == 8 && id.get_variant() == uuid::Variant::RFC4122));
        assert_eq!(of(first).collect::<std::collections::BTreeSet<_>>().len(), 8);
    }
}
