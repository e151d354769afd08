//! A packet as tcx sees it: read where it lies, rewritten with its checksums.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::programs::TcContext;
use proxy_common::addr::{Addr, Port};

use super::layout::End;

/// `ETH_P_IP` and `ETH_P_IPV6`, in network byte order as in the context.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// Where the IP header begins.
const IP: usize = 14;
/// Ethernet, IPv6 and UDP: the most that is looked at.
const HEADERS: u32 = 62;
/// Version 4, header of five words.
const V4_WITHOUT_OPTIONS: u8 = 0x45;
/// All but "don't fragment" of the field with the fragment's offset.
const FRAGMENT: u16 = 0x3fff_u16.to_be();

/// One direction of a flow: key of `PROOF_NAT_INBOUND`, where destinations are rewritten, and of
/// `PROOF_NAT_OUTBOUND`, where sources are.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tuple {
    /// Who sends.
    pub from: End,
    /// To whom.
    pub to: End,
    /// IP protocol.
    pub protocol: u32,
}

/// An end of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    From,
    To,
}

/// A packet of TCP or UDP without options or extension headers.
#[derive(Clone, Copy)]
pub struct Packet {
    pub tuple: Tuple,
    is_v4: bool,
}

impl Packet {
    /// Reads the headers; `None`: not such a packet.
    #[inline(always)]
    pub fn parse(ctx: &TcContext) -> Option<Self> {
        if ctx.data() + HEADERS as usize > ctx.data_end() {
            // A shorter packet stays as it is, and each read is checked.
            let _ = ctx.pull_data(HEADERS);
        }
        match ctx.skb.protocol() {
            ETH_P_IP => Self::parse_v4(ctx),
            ETH_P_IPV6 => Self::parse_v6(ctx),
            _ => None,
        }
    }

    #[inline(always)]
    fn parse_v4(ctx: &TcContext) -> Option<Self> {
        if read::<u8>(ctx, IP)? != V4_WITHOUT_OPTIONS || read::<u16>(ctx, IP + 6)? & FRAGMENT != 0 {
            return None;
        }
        let protocol = transport(read(ctx, IP + 9)?)?;
        let from = Addr::from_v4_word(read(ctx, IP + 12)?);
        let to = Addr::from_v4_word(read(ctx, IP + 16)?);
        let ports = (read(ctx, IP + 20)?, read(ctx, IP + 22)?);
        Some(Self { tuple: tuple(from, to, ports, protocol), is_v4: true })
    }

    #[inline(always)]
    fn parse_v6(ctx: &TcContext) -> Option<Self> {
        let protocol = transport(read(ctx, IP + 6)?)?;
        let from = Addr::from_words(read(ctx, IP + 8)?);
        let to = Addr::from_words(read(ctx, IP + 24)?);
        let ports = (read(ctx, IP + 40)?, read(ctx, IP + 42)?);
        Some(Self { tuple: tuple(from, to, ports, protocol), is_v4: false })
    }

    /// The IP version.
    #[inline(always)]
    pub fn version(&self) -> u32 {
        if self.is_v4 { 4 } else { 6 }
    }

    /// Puts `new` in the place of one end.
    #[inline(always)]
    pub fn rewrite(&self, ctx: &TcContext, side: Side, new: End) -> Result<(), i64> {
        let old = if side == Side::From { self.tuple.from } else { self.tuple.to };
        if self.is_v4 {
            let (address, port) = if side == Side::From { (12, 20) } else { (16, 22) };
            self.replace_ports(ctx, IP + 20, (old.port, new.port))?;
            let (from, to) = (old.addr.v4_word(), new.addr.v4_word());
            self.replace_word(ctx, IP + 20, (from, to))?;
            ctx.l3_csum_replace(IP + 10, u64::from(from), u64::from(to), 4)?;
            ctx.store(IP + address, &to, 0)?;
            ctx.store(IP + port, &new.port.to_be(), 0)
        } else {
            let (address, port) = if side == Side::From { (8, 40) } else { (24, 42) };
            self.replace_ports(ctx, IP + 40, (old.port, new.port))?;
            let ([a, b, c, d], [e, f, g, h]) = (old.addr.words(), new.addr.words());
            self.replace_word(ctx, IP + 40, (a, e))?;
            self.replace_word(ctx, IP + 40, (b, f))?;
            self.replace_word(ctx, IP + 40, (c, g))?;
            self.replace_word(ctx, IP + 40, (d, h))?;
            // No header checksum balances the address: a sum over the whole packet that a device has made must follow
            // it, as the helper above has let it follow the transport's checksum.
            ctx.store(IP + address, &[e, f, g, h], u64::from(BPF_F_RECOMPUTE_CSUM))?;
            ctx.store(IP + port, &new.port.to_be(), 0)
        }
    }

    /// Lets the transport's checksum follow a word of an address. Where a device is to finish it, the packet holds the
    /// sum of the pseudo-header alone, which the helper knows.
    #[inline(always)]
    fn replace_word(&self, ctx: &TcContext, transport: usize, (from, to): (u32, u32)) -> Result<(), i64> {
        let (offset, zero) = self.checksum();
        let flags = u64::from(BPF_F_PSEUDO_HDR) | zero | 4;
        ctx.l4_csum_replace(transport + offset, u64::from(from), u64::from(to), flags)
    }

    #[inline(always)]
    fn replace_ports(&self, ctx: &TcContext, transport: usize, (from, to): (Port, Port)) -> Result<(), i64> {
        let (offset, zero) = self.checksum();
        ctx.l4_csum_replace(transport + offset, u64::from(from.to_be()), u64::from(to.to_be()), zero | 2)
    }

    /// Where the checksum lies in the transport's header, and what keeps a zero, "none" in UDP, from being changed or made.
    #[inline(always)]
    fn checksum(&self) -> (usize, u64) {
        if self.tuple.protocol == IPPROTO_UDP { (6, u64::from(BPF_F_MARK_MANGLED_0)) } else { (16, 0) }
    }
}

impl Tuple {
    /// The other direction.
    #[inline(always)]
    pub fn reversed(self) -> Self {
        Self { from: self.to, to: self.from, protocol: self.protocol }
    }
}

/// The MAC address that the frame is sent to.
#[inline(always)]
pub fn receiver(ctx: &TcContext) -> Option<[u8; 6]> {
    read(ctx, 0)
}

/// The MAC address that has sent the frame.
#[inline(always)]
pub fn sender(ctx: &TcContext) -> Option<[u8; 6]> {
    read(ctx, 6)
}

/// Sends the frame to another MAC address.
#[inline(always)]
pub fn readdress(ctx: &TcContext, mac: [u8; 6]) -> Result<(), i64> {
    ctx.store(0, &mac, 0)
}

#[inline(always)]
fn transport(protocol: u8) -> Option<u32> {
    let protocol = u32::from(protocol);
    (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP).then_some(protocol)
}

#[inline(always)]
fn tuple(from: Addr, to: Addr, ports: (u16, u16), protocol: u32) -> Tuple {
    Tuple { from: end(from, ports.0), to: end(to, ports.1), protocol }
}

#[inline(always)]
fn end(addr: Addr, port: u16) -> End {
    End { addr, port: Port::from_be(port), pad: 0 }
}

/// Bytes of the packet, if it is that long. `T` is plain integers.
#[inline(always)]
fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie within the packet, as the verifier sees by the comparison above.
    Some(unsafe { (start as *const T).read_unaligned() })
}
