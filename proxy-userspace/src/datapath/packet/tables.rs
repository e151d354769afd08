//! The maps of the packet path that are pinned, as its object describes them.

use aya::EbpfError;
use aya_obj::Object;
use proxy_common::names;

use crate::datapath::DatapathError;
use crate::datapath::pin::{MapSet, PinDir, Pinned, at};
use crate::sys::map::Shape;

/// What the agent tells the programs, which it writes anew at each start, and what they find out for a moment.
pub(super) const TABLES: [&str; 4] = [names::DEVICES, names::SETTINGS, names::INSIDE, names::LOOKS];
/// What the programs remember.
const FLOWS: [&str; 5] = [names::FLOWS, names::OPENING, names::PLACES, names::FRAGMENTS, names::MARKS];

/// Bytes of memory for each record of a flow that there may be.
const BYTES_PER_FLOW: u64 = 16 * 1024;

/// Those that the object has. The table of flows may have any size: it depends on the machine.
pub(super) fn pinned(object: &[u8]) -> Result<Vec<Pinned>, DatapathError> {
    let object = Object::parse(object).map_err(EbpfError::ParseError)?;
    let of = |set, name: &'static str| {
        object.maps.get(name).map(|map| Pinned {
            set,
            name,
            shape: Shape {
                map_type: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: if name == names::FLOWS { 0 } else { map.max_entries() },
                flags: map.map_flags(),
            },
            inner: None,
        })
    };
    let tables = TABLES.into_iter().filter_map(|name| of(MapSet::Tables, name));
    let flows = FLOWS.into_iter().filter_map(|name| of(MapSet::Flows, name));
    Ok(tables.chain(flows).collect())
}

/// What had to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeRoom {
    /// How a pinned map differs from what this version wants.
    pub difference: String,
    /// What became of it.
    pub outcome: String,
}

/// Makes the directory of flows, and room in it and among the tables: what has another shape belongs to another version.
/// Flows are set aside, so that programs use them until ours are in force; what the agent tells the programs is unpinned, which
/// takes nothing from programs that use it.
pub(super) fn make_room(pin_dir: &PinDir, pinned: &[Pinned]) -> Result<Vec<MadeRoom>, DatapathError> {
    let mut made = Vec::new();
    pin_dir.create_set(MapSet::Flows)?;
    for table in pinned.iter().filter(|pinned| pinned.set == MapSet::Tables) {
        if let Some(difference) = pin_dir.foreign_among([table.clone()])? {
            let path = pin_dir.directory(MapSet::Tables).join(table.name);
            std::fs::remove_file(&path).map_err(at("remove", &path))?;
            made.push(MadeRoom { difference, outcome: format!("unpinned {}", path.display()) });
        }
    }
    let flows = pinned.iter().filter(|pinned| pinned.set == MapSet::Flows).cloned();
    if let Some(difference) = pin_dir.foreign_among(flows)? {
        let aside = pin_dir.set_aside(MapSet::Flows)?;
        made.push(MadeRoom { difference, outcome: format!("set aside as {}", aside.display()) });
    }
    Ok(made)
}

/// The first pinned map that is not what the object wants.
pub fn foreign_map(pin_dir: &PinDir, object: &[u8]) -> Result<Option<String>, DatapathError> {
    pin_dir.foreign_among(pinned(object)?)
}

/// How many records of flows a machine with so many bytes of memory may have.
pub fn flows_max(memory: u64) -> u32 {
    let wanted = (memory / BYTES_PER_FLOW).clamp(1 << 16, 1 << 20);
    // The bounds are powers of two that a u32 holds.
    1 << wanted.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::OBJECT;
    use proxy_common::flow::{Flow, FlowKey};
    use proxy_common::nat::{Device, Settings};
    use proxy_common::place::{PLACES, Place};

    #[test]
    fn there_are_as_many_flows_as_memory_allows() {
        const GIB: u64 = 1 << 30;
        for (memory, expected) in [
            (0, 65_536),
            (GIB, 65_536),
            (2 * GIB, 131_072),
            (3 * GIB, 131_072),
            (16 * GIB, 1_048_576),
            (u64::MAX, 1_048_576),
        ] {
            assert_eq!(flows_max(memory), expected, "{memory}");
        }
    }

    #[test]
    fn maps_are_as_the_layouts_say() {
        let pinned = pinned(OBJECT).unwrap();
        let shape = |name: &str| pinned.iter().find(|pinned| pinned.name == name).unwrap().shape;
        let flow = (size_of::<FlowKey>() as u32, size_of::<Flow>() as u32);
        assert_eq!(shape(names::FLOWS), Shape::hash(flow.0, flow.1, 0));
        assert_eq!(shape(names::OPENING), Shape::lru_hash(flow.0, flow.1, names::OPENING_MAX));
        let place = size_of::<Place>() as u32;
        assert_eq!(shape(names::PLACES), Shape::mapped_array(place, PLACES));
        assert_eq!(shape(names::SETTINGS), Shape::array(size_of::<Settings>() as u32, 1));
        assert_eq!(shape(names::DEVICES), Shape::hash(4, size_of::<Device>() as u32, names::DEVICES_MAX));
        assert!(pinned.iter().all(|pinned| (pinned.set == MapSet::Flows) == FLOWS.contains(&pinned.name)));
    }
}
