//! Service cells: one 64-byte cell per service port and family, switched as a whole by one store of its head.

/// Words of a cell; a cell is the unit of the `SERVICES` chunked array.
pub const CELL_WORDS: usize = 8;

/// Which endpoints a client gets, by who asks and through which frontend.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// ClusterIP: honours internalTrafficPolicy.
    Internal = 0,
    /// External frontends reached from inside the cluster: the short circuit, all usable endpoints.
    Cluster = 1,
    /// External frontends reached from outside: honours externalTrafficPolicy.
    External = 2,
}

impl View {
    /// Views of a cell.
    pub const COUNT: usize = 3;
    /// In the order of a half's words.
    pub const ALL: [Self; Self::COUNT] = [Self::Internal, Self::Cluster, Self::External];
    /// Those of whatever externalTrafficPolicy is about: all frontends but cluster IPs.
    pub const OF_POLICY: [Self; 2] = [Self::Cluster, Self::External];
}

/// One of the two sets of view words of a cell; the head says which is active.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Half {
    /// Words 1 to 3.
    A = 0,
    /// Words 4 to 6.
    B = 1,
}

impl Half {
    /// The half that is written while this one is active.
    #[inline(always)]
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Index of a view's word within the cell.
    #[inline(always)]
    pub const fn word(self, view: View) -> usize {
        1 + self as usize * View::COUNT + view as usize
    }
}

/// Index of the owner tag's word within the cell. Zero: the cell is free.
pub const OWNER_WORD: usize = 7;

/// First word of a cell: active half (bit 0), affinity seconds (bits 1 to 17), flags (bits 18 to 31), sequence
/// (bits 32 to 63). The sequence goes up by one with each store.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Head(pub u64);

impl Head {
    /// Greatest affinity timeout the layout holds, in seconds; the API's own limit is 86 400.
    pub const MAX_AFFINITY: u32 = (1 << 17) - 1;

    /// A head with no flags.
    #[inline(always)]
    pub const fn new(half: Half, affinity_seconds: u32, sequence: u32) -> Self {
        Self(half as u64 | ((affinity_seconds & Self::MAX_AFFINITY) as u64) << 1 | (sequence as u64) << 32)
    }

    /// The half whose view words are in force.
    #[inline(always)]
    pub const fn half(self) -> Half {
        if self.0 & 1 == 0 { Half::A } else { Half::B }
    }

    /// ClientIP affinity timeout in seconds; zero: no affinity.
    #[inline(always)]
    pub const fn affinity_seconds(self) -> u32 {
        (self.0 >> 1) as u32 & Self::MAX_AFFINITY
    }

    /// Reserved flags, 14 bits, zero in this schema.
    #[inline(always)]
    pub const fn flags(self) -> u16 {
        (self.0 >> 18) as u16 & 0x3fff
    }

    /// How many times the cell has been switched, modulo 2^32.
    #[inline(always)]
    pub const fn sequence(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a view does with a connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ViewKind {
    /// Leave the connection alone.
    Pass = 0,
    /// Pick a slot at random.
    Random = 1,
    /// Refuse: no usable endpoint anywhere.
    Reject = 2,
    /// Let the caller time out: policy Local with no endpoint here but some elsewhere.
    Drop = 3,
}

/// A view's word: extent base in ids (bits 0 to 29), count (bits 30 to 49), kind (bits 50 and 51),
/// [`ViewWord::KEEPS_SOURCE`] (bit 52), 11 spare bits that are zero.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ViewWord(pub u64);

impl ViewWord {
    /// First id past what a base can name.
    pub const MAX_BASE: u32 = 1 << 30;
    /// Greatest number of slots of a view.
    pub const MAX_COUNT: u32 = (1 << 20) - 1;
    /// Leaves connections alone.
    pub const PASS: Self = Self(0);
    /// Refuses connections.
    pub const REJECT: Self = Self((ViewKind::Reject as u64) << 50);
    /// Lets connections time out.
    pub const DROP: Self = Self((ViewKind::Drop as u64) << 50);

    /// Flag of a view: its backends are to see who their clients are, as externalTrafficPolicy Local promises. kube-proxy masquerades
    /// for `masqueradeAll` what goes to cluster IPs, and for policy Cluster what goes elsewhere: under policy Local nothing is left.
    pub const KEEPS_SOURCE: u64 = 1 << 52;

    /// A view that picks one of `count` slots from `base` at random.
    #[inline(always)]
    pub const fn random(base: u32, count: u32) -> Self {
        Self(
            (base & (Self::MAX_BASE - 1)) as u64
                | ((count & Self::MAX_COUNT) as u64) << 30
                | (ViewKind::Random as u64) << 50,
        )
    }

    /// First slot of the extent, in ids.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        self.0 as u32 & (Self::MAX_BASE - 1)
    }

    /// Slots of the extent.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        (self.0 >> 30) as u32 & Self::MAX_COUNT
    }

    /// The word without its flag: what it picks from.
    #[inline(always)]
    #[must_use]
    pub const fn plain(self) -> Self {
        Self(self.0 & !Self::KEEPS_SOURCE)
    }

    /// See [`ViewWord::KEEPS_SOURCE`].
    #[inline(always)]
    pub const fn keeps_source(self) -> bool {
        self.0 & Self::KEEPS_SOURCE != 0
    }

    /// What the view does.
    #[inline(always)]
    pub const fn kind(self) -> ViewKind {
        match (self.0 >> 50) & 3 {
            0 => ViewKind::Pass,
            1 => ViewKind::Random,
            2 => ViewKind::Reject,
            _ => ViewKind::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_fields_do_not_overlap() {
        let head = Head::new(Half::B, Head::MAX_AFFINITY, u32::MAX);
        assert_eq!((head.half(), head.affinity_seconds()), (Half::B, Head::MAX_AFFINITY));
        assert_eq!((head.flags(), head.sequence()), (0, u32::MAX));
        assert_eq!(Head::new(Half::A, 0, 7), Head(7 << 32));
    }

    #[test]
    fn view_word_fields_do_not_overlap() {
        let word = ViewWord::random(ViewWord::MAX_BASE - 1, ViewWord::MAX_COUNT);
        assert_eq!((word.base(), word.count()), (ViewWord::MAX_BASE - 1, ViewWord::MAX_COUNT));
        assert_eq!(word.kind(), ViewKind::Random);
        assert_eq!(word.0 >> 52, 0);
        let kept = ViewWord(word.0 | ViewWord::KEEPS_SOURCE);
        assert_eq!((kept.base(), kept.count(), kept.kind()), (word.base(), word.count(), word.kind()));
        assert!(kept.keeps_source() && !word.keeps_source());
        assert_eq!(kept.plain(), word);
        assert_eq!(ViewWord::REJECT.kind(), ViewKind::Reject);
        assert_eq!(ViewWord::DROP.kind(), ViewKind::Drop);
        assert_eq!(ViewWord::PASS.kind(), ViewKind::Pass);
    }

    #[test]
    fn halves_take_distinct_words_of_the_cell() {
        let mut seen = vec![0, OWNER_WORD];
        for half in [Half::A, Half::B] {
            seen.extend(View::ALL.map(|view| half.word(view)));
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..CELL_WORDS).collect::<Vec<_>>());
    }
}
