//! How many objects are asked for at a time: so many that a page has a few megabytes, whatever the size of an object.
//!
//! A slice of a thousand endpoints has some 400 kB, one of ten 4 kB. With one number for both, either a page would not fit
//! in memory, or a large cluster would take thousands of requests to list.

use super::resource::Resource;

/// Objects to the first page, of what is small and of slices.
const FIRST: (u32, u32) = (250, 25);
/// Objects to a page at most.
const LARGEST: u32 = 500;
/// Of what fits in a page, what is aimed at: the next objects may be larger than the last.
const AIM: usize = 8;
/// How much more the next page may hold than the last one was asked for.
const GROWTH: u32 = 4;

/// How many objects the next page is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paging {
    limit: u32,
    /// Bytes that fit in a page.
    bytes: usize,
}

impl Paging {
    /// For a kind of object of which nothing is known yet.
    pub(super) fn new(resource: &Resource, bytes: usize) -> Self {
        let limit = if matches!(resource, Resource::EndpointSlices) { FIRST.1 } else { FIRST.0 };
        Self { limit, bytes }
    }

    /// Objects to ask for.
    pub(super) fn limit(self) -> u32 {
        self.limit
    }

    /// A page came, with so many objects in so many bytes.
    pub(super) fn came(&mut self, objects: usize, bytes: usize) {
        let Some(each) = bytes.checked_div(objects) else { return };
        let fit = self.bytes / AIM / each.max(1);
        let most = self.limit.saturating_mul(GROWTH).min(LARGEST);
        self.limit = u32::try_from(fit).unwrap_or(LARGEST).clamp(1, most);
    }

    /// A page was too large, or did not come in time. False if no smaller one can be asked for.
    pub(super) fn shrink(&mut self) -> bool {
        let is_smallest = self.limit == 1;
        self.limit = (self.limit / GROWTH).max(1);
        !is_smallest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABYTE: usize = 1 << 20;

    fn limits_after(resource: &Resource, object_bytes: usize) -> Vec<u32> {
        let mut paging = Paging::new(resource, 32 * MEGABYTE);
        (0..4)
            .map(|_| {
                let limit = paging.limit();
                paging.came(limit as usize, limit as usize * object_bytes);
                limit
            })
            .collect()
    }

    #[test]
    fn pages_of_large_slices_stay_small_and_pages_of_small_ones_grow() {
        assert_eq!(limits_after(&Resource::EndpointSlices, 400_000), [25, 10, 10, 10]);
        assert_eq!(limits_after(&Resource::EndpointSlices, 4_000), [25, 100, 400, 500]);
        assert_eq!(limits_after(&Resource::Services, 2_000), [250, 500, 500, 500]);
        assert_eq!(limits_after(&Resource::Services, 10 * MEGABYTE), [250, 1, 1, 1]);
    }

    #[test]
    fn an_empty_page_says_nothing() {
        let mut paging = Paging::new(&Resource::Services, MEGABYTE);
        paging.came(0, 60);
        assert_eq!(paging.limit(), 250);
    }

    #[test]
    fn a_page_shrinks_down_to_one_object() {
        let mut paging = Paging::new(&Resource::EndpointSlices, MEGABYTE);
        let mut limits = Vec::new();
        while paging.shrink() {
            limits.push(paging.limit());
        }
        assert_eq!(limits, [6, 1]);
    }
}
