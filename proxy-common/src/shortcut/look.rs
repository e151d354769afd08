//! Whether anybody in the node's stack wants to see packets: read in the kernel's own memory, by a program that has a packet.
//!
//! No message of the kernel tells of all who may be there: hooks of netfilter are not to be listed everywhere
//! (`CONFIG_NETFILTER_NETLINK_HOOK`), and whoever asked now and then would be late. The kernel's BTF says where each of these
//! words lies. What cannot be read counts as somebody there.

use super::{TICKS_OF_PEER, counts};

/// Bytes from the beginning of one of the kernel's types to a member, out of its BTF.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `sk_buff.dev`.
    pub device: u32,
    /// `net_device.nd_net.net`.
    pub net: u32,
    /// `net_device.tcx_ingress` and `tcx_egress`: chains of programs.
    pub chains: [u32; 2],
    /// `net_device.nf_hooks_ingress` and `nf_hooks_egress`.
    pub device_hooks: [u32; 2],
    /// `net_device._tx`.
    pub queues: u32,
    /// `netdev_queue.qdisc`.
    pub qdisc: u32,
    /// `Qdisc.enqueue`: none where packets never wait.
    pub enqueue: u32,
    /// `bpf_mprog_entry.fp_items[1].prog`.
    pub second: u32,
    /// `bpf_mprog_entry.parent`.
    pub bundle: u32,
    /// `tcx_entry.bundle`, which `bpf_mprog_entry.parent` points to.
    pub in_entry: u32,
    /// `tcx_entry.miniq`: filters of a clsact or ingress qdisc.
    pub filters: u32,
    /// `net.nf.hooks_ipv4` and `hooks_ipv6`.
    pub hooks: [u32; 2],
    /// `net.xfrm.policy_count`.
    pub policies: u32,
    /// `net.xfrm.policy_default`.
    pub policy_defaults: u32,
    /// `net.ipv4.fib_rules_require_fldissect` and `net.ipv6.fib6_rules_require_fldissect`.
    pub rules: [u32; 2],
}

impl Offsets {
    /// None is known.
    pub const NONE: Self = Self {
        device: 0,
        net: 0,
        chains: [0; 2],
        device_hooks: [0; 2],
        queues: 0,
        qdisc: 0,
        enqueue: 0,
        second: 0,
        bundle: 0,
        in_entry: 0,
        filters: 0,
        hooks: [0; 2],
        policies: 0,
        policy_defaults: 0,
        rules: [0; 2],
    };
}

/// Words of [`Offsets`].
pub const OFFSETS_WORDS: usize = size_of::<Offsets>() / 4;

/// Why packets do not go past the stack, as a bit.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Netfilter has hooks for IPv4 that are forwarded.
    NetfilterV4 = 1,
    /// The same for IPv6.
    NetfilterV6 = 2,
    /// There are IPsec policies.
    Policies = 4,
    /// Somebody else has a program, a filter or a netfilter hook where packets enter by this device.
    OthersIn = 8,
    /// The same where they leave by it.
    OthersOut = 16,
    /// Packets wait in a queue where they leave by this device.
    Queue = 32,
    /// Routing rules look at ports or protocols.
    Rules = 64,
    /// Something could not be read.
    Unreadable = 128,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NetfilterV4,
        Self::NetfilterV6,
        Self::Policies,
        Self::OthersIn,
        Self::OthersOut,
        Self::Queue,
        Self::Rules,
        Self::Unreadable,
    ];

    /// What users read.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NetfilterV4 => "netfilter of IPv4",
            Self::NetfilterV6 => "netfilter of IPv6",
            Self::Policies => "IPsec policies",
            Self::OthersIn => "others at its ingress",
            Self::OthersOut => "others at its egress",
            Self::Queue => "a queue",
            Self::Rules => "routing rules by port or protocol",
            Self::Unreadable => "kernel memory that is not readable",
        }
    }

    /// Whether it counts where packets enter, for a family or both; the others count where they are handed to a pod.
    pub fn is_of_ingress(self) -> bool {
        IN_THE_WAY.iter().any(|mask| mask & self as u8 != 0)
    }

    /// Those whose bits are set.
    pub fn of(bits: u8) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |reason| bits & *reason as u8 != 0)
    }
}

/// Reasons at the device that a packet enters by, for IPv4 and IPv6.
pub const IN_THE_WAY: [u8; 2] = [ANY | Reason::NetfilterV4 as u8, ANY | Reason::NetfilterV6 as u8];
/// Those that count for either.
const ANY: u8 =
    Reason::Policies as u8 | Reason::OthersIn as u8 | Reason::Rules as u8 | Reason::Unreadable as u8;
/// Reasons at the device whose pair's other end a packet is handed to, past the device.
const BEFORE_PEER: u8 = Reason::OthersOut as u8 | Reason::Queue as u8 | Reason::Unreadable as u8;

/// The kernel's memory.
pub trait Memory {
    /// Eight bytes.
    fn word(&self, at: u64) -> Option<u64>;
}

/// Looks where the device of a packet is, whose `sk_buff` lies at `packet`; returns a bit for each [`Reason`].
#[inline(always)]
pub fn look<M: Memory>(memory: &M, at: &Offsets, packet: u64) -> u8 {
    match device_and_net(memory, at, packet) {
        Some((device, net)) => of_net(memory, at, net) | of_device(memory, at, device),
        None => Reason::Unreadable as u8,
    }
}

#[inline(always)]
fn device_and_net<M: Memory>(memory: &M, at: &Offsets, packet: u64) -> Option<(u64, u64)> {
    let device = memory.word(packet + at.device as u64)?;
    Some((device, memory.word(device + at.net as u64)?))
}

#[inline(always)]
fn of_net<M: Memory>(memory: &M, at: &Offsets, net: u64) -> u8 {
    let [v4, v6] = at.hooks;
    bit(has_hooks(memory, net + v4 as u64), Reason::NetfilterV4)
        | bit(has_hooks(memory, net + v6 as u64), Reason::NetfilterV6)
        | bit(has_policies(memory, at, net), Reason::Policies)
        | bit(has_rules(memory, at, net), Reason::Rules)
}

#[inline(always)]
fn of_device<M: Memory>(memory: &M, at: &Offsets, device: u64) -> u8 {
    let [chain_in, chain_out] = at.chains;
    let [hooks_in, hooks_out] = at.device_hooks;
    let others = |chain: u32, hooks: u32| match memory.word(device + hooks as u64) {
        Some(0) => is_shared(memory, at, device + chain as u64),
        hooks => hooks.map(|_| true),
    };
    bit(others(chain_in, hooks_in), Reason::OthersIn)
        | bit(others(chain_out, hooks_out), Reason::OthersOut)
        | bit(has_queue(memory, at, device), Reason::Queue)
}

/// A reason, or why it is not known.
#[inline(always)]
const fn bit(is_so: Option<bool>, reason: Reason) -> u8 {
    match is_so {
        Some(false) => 0,
        Some(true) => reason as u8,
        None => Reason::Unreadable as u8,
    }
}

/// `NF_INET_PRE_ROUTING`, `NF_INET_FORWARD` and `NF_INET_POST_ROUTING`: what is forwarded passes these.
#[inline(always)]
fn has_hooks<M: Memory>(memory: &M, hooks: u64) -> Option<bool> {
    let all = memory.word(hooks)? | memory.word(hooks + 2 * 8)? | memory.word(hooks + 4 * 8)?;
    Some(all != 0)
}

/// Six counts of four bytes, and three defaults of one byte, of which 1 is to drop (`XFRM_USERPOLICY_BLOCK`), 2 to let pass.
#[inline(always)]
fn has_policies<M: Memory>(memory: &M, at: &Offsets, net: u64) -> Option<bool> {
    let counts = net + at.policies as u64;
    let all = memory.word(counts)? | memory.word(counts + 8)? | memory.word(counts + 16)?;
    let defaults = memory.word(net + at.policy_defaults as u64)?;
    Some(all != 0 || defaults & 0x01_01_01 != 0)
}

#[inline(always)]
fn has_rules<M: Memory>(memory: &M, at: &Offsets, net: u64) -> Option<bool> {
    let [v4, v6] = at.rules;
    let all = memory.word(net + v4 as u64)? | memory.word(net + v6 as u64)?;
    Some(all & 0xffff_ffff != 0)
}

/// Whether a chain has a second program, or filters behind it. The first is ours: it is looking.
#[inline(always)]
fn is_shared<M: Memory>(memory: &M, at: &Offsets, chain: u64) -> Option<bool> {
    let chain = memory.word(chain)?;
    if chain == 0 {
        return Some(false);
    }
    let second = memory.word(chain + at.second as u64)?;
    let bundle = memory.word(chain + at.bundle as u64)?;
    let entry = bundle.wrapping_sub(at.in_entry as u64);
    let filters = memory.word(entry.wrapping_add(at.filters as u64))?;
    Some(second != 0 || filters != 0)
}

#[inline(always)]
fn has_queue<M: Memory>(memory: &M, at: &Offsets, device: u64) -> Option<bool> {
    let queues = memory.word(device + at.queues as u64)?;
    let qdisc = memory.word(queues + at.qdisc as u64)?;
    Some(memory.word(qdisc + at.enqueue as u64)? != 0)
}

/// What was found at a device, and when: an element of `LOOKS`, at the place of the device's index, which other devices may
/// have too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look(pub u64);

impl Look {
    /// Of a device with this index, found at a tick.
    #[inline(always)]
    pub const fn new(device: u32, reasons: u8, tick: u32) -> Self {
        Self((tick as u64) << 32 | (reasons as u64) << 24 | (device & INDEX) as u64)
    }

    /// Where it lies.
    #[inline(always)]
    pub const fn place(device: u32) -> u32 {
        device & (super::LOOKS - 1)
    }

    /// What was found at a device, if it is this one and the tick this very one.
    #[inline(always)]
    pub const fn just_found(self, device: u32, tick: u32) -> Option<u8> {
        self.within(device, tick, 1)
    }

    /// Whether packets may be handed to the other end of the device's pair.
    #[inline(always)]
    pub const fn lets_pass(self, device: u32, tick: u32) -> bool {
        matches!(self.within(device, tick, TICKS_OF_PEER), Some(reasons) if reasons & BEFORE_PEER == 0)
    }

    /// What was found at a device and how many ticks ago, however long that is.
    pub fn last_found(self, device: u32, tick: u32) -> Option<(u8, u32)> {
        let reasons = self.within(device, tick, u32::MAX)?;
        Some((reasons, tick.wrapping_sub((self.0 >> 32) as u32)))
    }

    #[inline(always)]
    const fn within(self, device: u32, tick: u32, ticks: u32) -> Option<u8> {
        let is_of_device = self.0 as u32 & INDEX == device && device <= INDEX;
        if is_of_device && counts((self.0 >> 32) as u32, tick, ticks) {
            Some((self.0 >> 24) as u8)
        } else {
            None
        }
    }
}

/// Indices of devices that fit into a [`Look`].
const INDEX: u32 = 0x00ff_ffff;
