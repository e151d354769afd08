//! Rate of connects to a ClusterIP against the rate of connects to its backends, in interleaved pairs.
//!
//! Both halves of a pair lie milliseconds apart, so what else the machine does hits both; what it does to one only
//! widens the interval. Work that the kernel puts off past the end of a half, as freeing a socket's storage, falls
//! on whichever half comes next: the lines with longer halves hold most of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;

use super::connect::ConnectArguments;
use super::estimate::{Estimate, Goal};
use super::site::{Service, Site, connect};
use super::table::{Figure, Report};

const GOAL: Goal = Goal::AtLeast { bound: 0.99, resolution: 0.02 };
/// Connects ahead of each half that are not timed: the caches are warm for this side when the clock starts.
const WARM_UP: u32 = 16;
/// Extra connects of the control that must be seen as slower, in percent.
const SLOW_DOWN: u32 = 5;

/// One side of a comparison.
struct Side<'a> {
    /// Dialled in turn.
    targets: &'a [SocketAddr],
    hooked: bool,
    /// Connects done for each one that is counted, in percent.
    work: u32,
}

struct Comparison<'a> {
    name: &'a str,
    sides: [Side<'a>; 2],
    /// Pairs and connects a half, as a multiple of what was asked for.
    scale: f64,
    note: &'a str,
}

/// Measures every comparison, one after the other.
pub(super) fn measure(site: &Site, arguments: &ConnectArguments, report: &mut Report) -> Result<()> {
    let mut random = Rng::with_seed(2);
    for comparison in comparisons(site) {
        eprintln!("pairs: {}", comparison.name);
        // The last half of the comparison before may have been outside of the hooks.
        site.place(true)?;
        let length = comparison.length(arguments);
        let ratios = comparison.run(site, length, &mut random)?;
        let estimate = Estimate::bootstrap(&ratios, &mut random).context("no pairs")?;
        let note = format!("{} pairs of {}{}", length.0, length.1, comparison.note);
        report.add(&Figure { name: comparison.name, unit: "1", estimate, goal: GOAL, note });
    }
    Ok(())
}

fn comparisons(site: &Site) -> Vec<Comparison<'_>> {
    let slow = Side { work: 100 + SLOW_DOWN, ..Side::direct(&site.far, true) };
    let line = |name, sides, scale, note| Comparison { name, sides, scale, note };
    let (far, near) = (&site.far, &site.near);
    vec![
        line("pod to pod over veth", [Side::vip(far), Side::direct(far, true)], 1.0, ""),
        line(
            "the same, long halves",
            [Side::vip(far), Side::direct(far, true)],
            10.0,
            "; deferred work is in",
        ),
        line("the same, direct from an unhooked cgroup", [Side::vip(far), Side::direct(far, false)], 1.0, ""),
        line(
            "over loopback in one namespace",
            [Side::vip(near), Side::direct(near, true)],
            1.0,
            "; the shortest connect there is",
        ),
        line(
            "control: direct : direct",
            [Side::direct(far, true), Side::direct(far, true)],
            1.0,
            "; must be met",
        ),
        line(
            "control: 5 % more connects : direct",
            [slow, Side::direct(far, true)],
            1.0,
            "; 0.9524 expected, must be missed",
        ),
    ]
}

impl Comparison<'_> {
    /// Pairs, and connects of a half: longer halves are fewer.
    fn length(&self, arguments: &ConnectArguments) -> (u32, u32) {
        let scaled = |count: u32, factor: f64| {
            #[expect(clippy::cast_sign_loss, reason = "both are positive")]
            let scaled = (f64::from(count) * factor).ceil() as u32;
            scaled
        };
        (scaled(arguments.pairs, 1.0 / self.scale), scaled(arguments.connects, self.scale))
    }

    /// The ratio of each pair.
    fn run(&self, site: &Site, (pairs, connects): (u32, u32), random: &mut Rng) -> Result<Vec<f64>> {
        let mut ratios = Vec::new();
        let mut first = 0;
        for pair in 0..pairs {
            // Blocks of two pairs, A B B A or B A A B by chance: a steady drift cancels within a block.
            first = if pair % 2 == 0 { random.usize(..2) } else { 1 - first };
            let mut took = [Duration::ZERO; 2];
            for index in [first, 1 - first] {
                took[index] = self.half(site, index, connects)?;
            }
            ratios.push(took[1].as_secs_f64() / took[0].as_secs_f64());
        }
        Ok(ratios)
    }

    fn half(&self, site: &Site, index: usize, connects: u32) -> Result<Duration> {
        let measured = &self.sides[index];
        if self.sides[0].hooked != self.sides[1].hooked {
            site.place(measured.hooked)?;
        }
        measured.connect(WARM_UP)?;
        let start = Instant::now();
        measured.connect(connects * measured.work / 100)?;
        let took = start.elapsed();
        site.drain();
        Ok(took)
    }
}

impl<'a> Side<'a> {
    fn vip(service: &'a Service) -> Self {
        Self { targets: std::slice::from_ref(&service.vip), hooked: true, work: 100 }
    }

    fn direct(service: &'a Service, hooked: bool) -> Self {
        Self { targets: &service.backends, hooked, work: 100 }
    }

    fn connect(&self, count: u32) -> Result<()> {
        for target in self.targets.iter().cycle().take(count as usize) {
            connect(*target).with_context(|| format!("connect to {target}"))?;
        }
        Ok(())
    }
}
