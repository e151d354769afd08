//! The kernel's own types, as its BTF tells them: where a member lies. aya reads BTF and shows no members, and the one other
//! reader that there is cannot be part of a program under this licence.
//!
//! The format is `Documentation/bpf/btf.rst`: a header, types one after the other, and names. What is torn or unknown ends the
//! reading; nothing is guessed.

use std::collections::HashMap;

/// `/sys/kernel/btf/vmlinux`: BTF of the kernel without its modules.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// Words of a type ahead of what its kind adds.
const TYPE_WORDS: usize = 3;

/// Numbers of kinds, `BTF_KIND_*`.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// All types.
#[derive(Debug)]
pub struct Types<'a> {
    names: &'a [u8],
    /// By id, less one: ids begin with one.
    all: Vec<Type>,
    structs: HashMap<&'a [u8], usize>,
}

#[derive(Debug)]
struct Type {
    kind: u32,
    /// The type that it points to, is another name of, or is made of.
    of: u32,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: u32,
    of: u32,
    bits: u32,
}

impl<'a> Types<'a> {
    /// Reads what a file of BTF holds; `None`: this is none, or of a kind that nobody knew when this was written.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| word(bytes, at);
        if half(0)? != MAGIC {
            return None;
        }
        let [header, types, types_len, names, names_len] =
            [word(4)?, word(8)?, word(12)?, word(16)?, word(20)?];
        let part = |at: usize, len: usize| bytes.get(header.checked_add(at)?..)?.get(..len);
        let mut read = Self { names: part(names, names_len)?, all: Vec::new(), structs: HashMap::new() };
        let mut left = part(types, types_len)?;
        while !left.is_empty() {
            let words = read.take(left)?;
            left = left.get(4 * words..)?;
        }
        Some(read)
    }

    /// Takes the first type; returns its words.
    fn take(&mut self, bytes: &'a [u8]) -> Option<usize> {
        let word = |index: usize| word(bytes, 4 * index);
        let [name, info, of] = [word(0)?, word(1)?, word(2)?];
        let (kind, count, has_bitfields) =
            (u32::try_from(info).ok()? >> 24 & 0x1f, info & 0xffff, info >> 31 != 0);
        let mut members = Vec::new();
        let more = match kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 1,
            kind::ARRAY => 3,
            kind::STRUCT | kind::UNION => {
                for index in 0..count {
                    let at =
                        |index: usize| word(TYPE_WORDS + index).and_then(|word| u32::try_from(word).ok());
                    let bits = at(3 * index + 2)?;
                    let bits = if has_bitfields { bits & 0x00ff_ffff } else { bits };
                    members.push(Member { name: at(3 * index)?, of: at(3 * index + 1)?, bits });
                }
                3 * count
            }
            kind::ENUM | kind::FUNC_PROTO => 2 * count,
            kind::DATASEC | kind::ENUM64 => 3 * count,
            0 | 20.. => return None,
            _ => 0,
        };
        if kind == kind::STRUCT {
            let name = self.name(name)?;
            self.structs.entry(name).or_insert(self.all.len());
        }
        self.all.push(Type { kind, of: u32::try_from(of).ok()?, members });
        Some(TYPE_WORDS + more)
    }

    fn name(&self, at: usize) -> Option<&'a [u8]> {
        self.names.get(at..)?.split(|byte| *byte == 0).next()
    }

    /// Bytes from the beginning of a struct to a member of a member ... of it. Members of unnamed structs and unions are its own.
    pub fn offset(&self, of: &str, path: &[&str]) -> Option<u32> {
        let mut at = *self.structs.get(of.as_bytes())?;
        let mut bits = 0;
        for name in path {
            let (member, more) = self.member(at, name.as_bytes(), 0)?;
            bits += more;
            at = self.resolve(member);
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// The type of a member, and where it begins.
    fn member(&self, at: usize, name: &[u8], depth: usize) -> Option<(u32, u32)> {
        let members = &self.all.get(at)?.members;
        let mut unnamed = Vec::new();
        for member in members {
            match self.name(usize::try_from(member.name).ok()?)? {
                b"" => unnamed.push(member),
                found if found == name => return Some((member.of, member.bits)),
                _ => {}
            }
        }
        // Nobody nests them deeper; a file that says so is torn.
        let within = |member: &&Member| {
            let (of, bits) = self.member(self.resolve(member.of), name, depth + 1)?;
            Some((of, member.bits + bits))
        };
        if depth < 8 { unnamed.iter().find_map(within) } else { None }
    }

    /// The index of the type behind other names of it.
    fn resolve(&self, id: u32) -> usize {
        let index = |id: u32| usize::try_from(id).unwrap_or(usize::MAX).wrapping_sub(1);
        let mut at = index(id);
        for _ in 0..8 {
            match self.all.get(at) {
                Some(Type {
                    kind: kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG,
                    of,
                    ..
                }) => at = index(*of),
                _ => break,
            }
        }
        at
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?);
    usize::try_from(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a struct `outer { int a; union { struct inner b; }; const inner c; }` and `inner { int x; int y:3; int z; }`.
    fn file() -> Vec<u8> {
        let names = b"\0int\0inner\0x\0y\0z\0outer\0a\0b\0c\0";
        let name = |wanted: &[u8]| {
            let places = names.windows(wanted.len() + 2);
            let place = places.enumerate().find(|(_, window)| {
                window[0] == 0 && window[window.len() - 1] == 0 && &window[1..=wanted.len()] == wanted
            });
            u32::try_from(place.unwrap().0 + 1).unwrap()
        };
        let info = |kind: u32, count: u32| kind << 24 | count;
        let bitfields = 1 << 31;
        let types: Vec<u32> = [
            vec![name(b"int"), info(kind::INT, 0), 4, 32],
            vec![name(b"inner"), info(kind::STRUCT, 3) | bitfields, 12],
            vec![name(b"x"), 1, 0, name(b"y"), 1, 3 << 24 | 0x23, name(b"z"), 1, 64],
            vec![0, info(kind::CONST, 0), 2],
            vec![0, info(kind::UNION, 1), 12, name(b"b"), 2, 0],
            vec![name(b"outer"), info(kind::STRUCT, 3), 28],
            vec![name(b"a"), 1, 0, 0, 4, 32, name(b"c"), 3, 128],
        ]
        .concat();
        let length = |bytes: usize| u32::try_from(bytes).unwrap();
        let mut file = MAGIC.to_ne_bytes().to_vec();
        file.extend([1, 0]);
        let head = [24, 0, length(4 * types.len()), length(4 * types.len()), length(names.len())];
        file.extend(head.iter().chain(&types).flat_map(|word| word.to_ne_bytes()));
        file.extend(names);
        file
    }

    #[test]
    fn members_are_found_by_their_path() {
        let file = file();
        let types = Types::read(&file).unwrap();
        assert_eq!(types.offset("inner", &["z"]), Some(8));
        assert_eq!(types.offset("outer", &["c", "z"]), Some(24), "by another name of the type");
        assert_eq!(types.offset("outer", &["b", "x"]), Some(4), "within an unnamed union");
        for (of, path) in [("inner", "w"), ("other", "x"), ("inner", "y")] {
            assert_eq!(types.offset(of, &[path]), None, "{of}.{path}: none, or not at a byte");
        }
    }

    #[test]
    fn what_is_torn_is_not_read() {
        let file = file();
        assert!(Types::read(b"").is_none());
        for length in 0..file.len() {
            if let Some(types) = Types::read(&file[..length]) {
                panic!("{length} of {} bytes are enough: {types:?}", file.len());
            }
        }
        for at in 0..file.len() {
            let mut odd = file.clone();
            odd[at] ^= 0xff;
            // Whatever it says then, it says it without a panic.
            let _ = Types::read(&odd).map(|types| types.offset("outer", &["c", "z"]));
        }
    }

    #[test]
    fn the_kernel_that_runs_is_read() {
        let file = std::fs::read(VMLINUX).unwrap();
        let types = Types::read(&file).unwrap();
        // These two have been first in their structs for as long as there were any.
        assert_eq!(types.offset("list_head", &["prev"]), Some(u32::try_from(size_of::<usize>()).unwrap()));
        assert_eq!(types.offset("sk_buff", &["next"]), Some(0));
    }
}
