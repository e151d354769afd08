//! What the programs ask of the kernel, thing by thing: where a load fails, this says which one is lacking.
//!
//! All of it is as old as [`super::probe::OLDEST_KERNEL`], so nothing has a fallback; a kernel may still be built without. What
//! shortcuts take is not asked for: without it there are none.

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};

/// Helpers that the programs at sockets call; the last three only where they log.
const HELPERS: [BpfHelper; 19] = [
    BpfHelper::BPF_FUNC_map_lookup_elem,
    BpfHelper::BPF_FUNC_map_update_elem,
    BpfHelper::BPF_FUNC_map_delete_elem,
    BpfHelper::BPF_FUNC_get_current_pid_tgid,
    BpfHelper::BPF_FUNC_ktime_get_coarse_ns,
    BpfHelper::BPF_FUNC_ringbuf_output,
    BpfHelper::BPF_FUNC_get_prandom_u32,
    BpfHelper::BPF_FUNC_jiffies64,
    BpfHelper::BPF_FUNC_get_smp_processor_id,
    BpfHelper::BPF_FUNC_get_socket_cookie,
    BpfHelper::BPF_FUNC_get_current_cgroup_id,
    BpfHelper::BPF_FUNC_sk_storage_get,
    BpfHelper::BPF_FUNC_spin_lock,
    BpfHelper::BPF_FUNC_spin_unlock,
    BpfHelper::BPF_FUNC_get_netns_cookie,
    BpfHelper::BPF_FUNC_set_retval,
    BpfHelper::BPF_FUNC_ringbuf_reserve,
    BpfHelper::BPF_FUNC_ringbuf_submit,
    BpfHelper::BPF_FUNC_ringbuf_discard,
];

/// Helpers that only the egress guard calls.
const OF_PACKETS: [BpfHelper; 2] = [BpfHelper::BPF_FUNC_sk_fullsock, BpfHelper::BPF_FUNC_skb_load_bytes];

/// Helpers that only the programs at devices call.
const OF_DEVICES: [BpfHelper; 8] = [
    BpfHelper::BPF_FUNC_ktime_get_ns,
    BpfHelper::BPF_FUNC_skb_store_bytes,
    BpfHelper::BPF_FUNC_l4_csum_replace,
    BpfHelper::BPF_FUNC_tail_call,
    BpfHelper::BPF_FUNC_redirect,
    BpfHelper::BPF_FUNC_skb_change_tail,
    BpfHelper::BPF_FUNC_skb_pull_data,
    BpfHelper::BPF_FUNC_csum_update,
];

/// Types of the maps, and of the maps in maps; the last two are of programs at devices only.
const MAP_TYPES: [(&str, MapType); 9] = [
    ("array", MapType::Array),
    ("array_of_maps", MapType::ArrayOfMaps),
    ("hash", MapType::Hash),
    ("lru_hash", MapType::LruHash),
    ("lpm_trie", MapType::LpmTrie),
    ("sk_storage", MapType::SkStorage),
    ("ringbuf", MapType::RingBuf),
    ("percpu_array", MapType::PerCpuArray),
    ("prog_array", MapType::ProgramArray),
];

/// Kinds of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A type of map.
    MapType,
    /// A function of the kernel that programs call.
    Helper,
}

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its kind.
    pub kind: Kind,
    /// Its name in the kernel.
    pub name: String,
    /// Whether the kernel has it; an error says why that could not be found out.
    pub is_there: Result<bool, String>,
}

/// Asks the kernel for each. Needs the rights to load programs; nothing stays loaded.
pub fn probe() -> Vec<Feature> {
    let map_types = MAP_TYPES.map(|(name, map_type)| Feature {
        kind: Kind::MapType,
        name: name.to_owned(),
        is_there: is_map_supported(map_type).map_err(|error| error.to_string()),
    });
    let helpers = HELPERS.map(|helper| of(ProgramType::CgroupSockAddr, helper));
    let of_packets = OF_PACKETS.map(|helper| of(ProgramType::CgroupSkb, helper));
    let of_devices = OF_DEVICES.map(|helper| of(ProgramType::SchedClassifier, helper));
    map_types.into_iter().chain(helpers).chain(of_packets).chain(of_devices).collect()
}

fn of(program: ProgramType, helper: BpfHelper) -> Feature {
    let is_there = is_helper_supported(program, helper).map_err(|error| error.to_string());
    Feature { kind: Kind::Helper, name: helper_name(helper), is_there }
}

fn helper_name(helper: BpfHelper) -> String {
    format!("{helper:?}").trim_start_matches("BPF_FUNC_").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::load::OBJECT;
    use crate::datapath::packet;
    use aya_obj::Object;
    use std::collections::BTreeSet;

    /// `BPF_JMP | BPF_CALL`.
    const CALL: u8 = 0x85;

    /// Helpers that an object calls, and types of its maps.
    fn used(object: &[u8]) -> (BTreeSet<i32>, BTreeSet<u32>) {
        let object = Object::parse(object).unwrap();
        let instructions = object.functions.values().flat_map(|function| &function.instructions);
        // A call with another source is one between functions of the object.
        let called =
            instructions.filter(|instruction| instruction.code == CALL && instruction.src_reg() == 0);
        let maps = object
            .maps
            .values()
            .flat_map(|map| [Some(map.map_type()), map.inner().map(|map| map.map_type())]);
        (called.map(|instruction| instruction.imm).collect(), maps.flatten().collect())
    }

    /// The lists of UDP sockets and of flows are written by iterators, which no kernel without this helper has.
    const OF_ITERATORS: [BpfHelper; 1] = [BpfHelper::BPF_FUNC_seq_write];

    /// What shortcuts take: where the kernel has none of it, packets take the stack.
    const OF_SHORTCUTS: [BpfHelper; 4] = [
        BpfHelper::BPF_FUNC_fib_lookup,
        BpfHelper::BPF_FUNC_probe_read_kernel,
        BpfHelper::BPF_FUNC_redirect_neigh,
        BpfHelper::BPF_FUNC_redirect_peer,
    ];

    fn numbers(helpers: &[BpfHelper]) -> BTreeSet<i32> {
        helpers.iter().map(|helper| *helper as i32).collect()
    }

    #[test]
    fn the_lists_are_those_of_the_objects() {
        let (called, mut types) = used(OBJECT);
        assert_eq!(called, numbers(&[&HELPERS[..], &OF_PACKETS, &OF_ITERATORS].concat()));
        let (called, more) = used(packet::OBJECT);
        let listed = numbers(&[&HELPERS[..], &OF_ITERATORS].concat());
        assert_eq!(&called - &listed, numbers(&[&OF_DEVICES[..], &OF_SHORTCUTS].concat()));
        types.extend(more);
        assert_eq!(types, MAP_TYPES.map(|(_, map_type)| map_type as u32).into());
    }

    #[test]
    fn helpers_have_the_names_of_the_kernel() {
        assert_eq!(helper_name(BpfHelper::BPF_FUNC_sk_storage_get), "sk_storage_get");
    }
}
