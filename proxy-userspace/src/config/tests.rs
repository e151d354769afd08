//! Small things that are checked at once.

use super::*;

#[test]
fn a_service_filter_reads_labels() {
    let matches = |filter: &str, label: &str| filter.parse::<ServiceFilter>().unwrap().matches(label);
    assert!(matches("default/web", "default/web:http/tcp"));
    assert!(matches("default/web", "default/web:/udp"));
    assert!(matches("default/web:http", "default/web:http/tcp"));
    assert!(matches("default/web:http/tcp", "default/web:http/tcp"));
    assert!(!matches("default/web:http/udp", "default/web:http/tcp"));
    assert!(!matches("default/web", "default/web-2:http/tcp"));
    assert!(!matches("default/web:htt", "default/web:http/tcp"));
    for bad in ["web", "/web", "default/", "default/web:", "a/b/c"] {
        assert_eq!(bad.parse::<ServiceFilter>(), Err(ServiceFilterError), "{bad}");
    }
}
