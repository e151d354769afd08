//! Splitting and decoding files.

use std::fmt::Write;
use std::path::Path;

use crate::source::manifests::document::{Found, Object, read_file};

/// What a file holds, one word for each object and `place:line:bad` for each fault.
fn read(name: &str, text: impl AsRef<[u8]>) -> Vec<String> {
    let describe = |found: Found| match found {
        Ok(Object::Service(it)) => format!("Service {}", it.metadata.name),
        Ok(Object::Slice(it)) => format!("Slice {}", it.metadata.name),
        Ok(Object::Node(it)) => format!("Node {}", it.metadata.name),
        Ok(Object::ServiceCidr(it)) => format!("ServiceCIDR {}", it.metadata.name),
        Err(fault) => {
            assert!(!fault.problem.is_empty() && !fault.problem.contains('\n'), "{fault:?}");
            format!("{}:{}:{}", fault.place, fault.line.unwrap_or(0), fault.is_bad)
        }
    };
    let mut found = Vec::new();
    read_file(Path::new(name), text.as_ref(), &mut |it| found.push(describe(it)));
    found
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec: { clusterIP: 10.96.0.1 }\n";

#[test]
fn documents_are_split_at_their_markers() {
    let text = format!("# heading\n---\n{SERVICE}---\n\n--- # only a comment\n---\n{SERVICE}...\n---\n");
    assert_eq!(read("x.yaml", text), ["Service a", "Service a"]);
    assert_eq!(read("x.yaml", ""), [""; 0]);
    assert_eq!(read("x.yaml", format!("\u{feff}{SERVICE}")), ["Service a"]);
    let dos = format!("---\n{SERVICE}---\n{SERVICE}").replace('\n', "\r\n");
    assert_eq!(read("x.yml", dos), ["Service a", "Service a"]);
    let inline = "--- { apiVersion: v1, kind: Node, metadata: { name: n } }\n";
    assert_eq!(read("x.yaml", inline), ["Node n"]);
}

#[test]
fn every_kind_is_read_and_nothing_else() {
    let head = |version: &str, kind: &str| {
        format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{ name: a }}\n")
    };
    let text = [
        head("v1", "Service"),
        head("discovery.k8s.io/v1", "EndpointSlice"),
        head("v1", "Node"),
        head("networking.k8s.io/v1", "ServiceCIDR"),
        head("apps/v1", "Deployment"),
        head("discovery.k8s.io/v1beta1", "EndpointSlice"),
    ];
    let expected =
        ["Service a", "Slice a", "Node a", "ServiceCIDR a", "document 5:17:false", "document 6:21:false"];
    assert_eq!(read("x.yaml", text.concat()), expected);
}

#[test]
fn a_bad_document_is_named_and_hides_no_other() {
    let bad_syntax = "apiVersion: v1\nkind: [\n";
    let bad_type = "apiVersion: v1\nkind: Service\nmetadata: { name: a }\nspec:\n  ports:\n  - port: many\n";
    let no_kind = "metadata: { name: a }\n";
    let text =
        format!("---\n{bad_syntax}---\n{SERVICE}---\n{bad_type}---\n{no_kind}---\njust text\n---\n{SERVICE}");
    let found = read("x.yaml", text);
    assert_eq!(found.len(), 6, "{found:?}");
    assert!(found[0].starts_with("document 1:") && found[0].ends_with(":true"), "{found:?}");
    assert_eq!(found[1], "Service a");
    assert_eq!(found[2], "document 3:16:true");
    assert_eq!(found[3], "document 4:17:true");
    assert_eq!(found[4], "document 5:20:true");
    assert_eq!(found[5], "Service a");
}

#[test]
fn lists_are_unrolled_and_their_bad_items_named() {
    let text = "\
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: { name: a }
- apiVersion: v1
  kind: Service
  metadata: { name: 7 }
- apiVersion: v1
  kind: ConfigMap
- apiVersion: v1
  kind: List
- apiVersion: v1
  kind: Node
  metadata: { name: n }
---
apiVersion: v1
kind: List
";
    let expected = [
        "Service a",
        "document 1, items[1]:1:true",
        "document 1, items[2]:1:false",
        "document 1, items[3]:1:true",
        "Node n",
    ];
    assert_eq!(read("x.yaml", text), expected);
}

#[test]
fn json_files_may_hold_several_values() {
    let service = r#"{ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" }, "spec": null }"#;
    assert_eq!(read("x.json", format!("{service}\n\n{service}{service}\n")), ["Service a"; 3]);
    let bad_type = service.replace("null", "\n7");
    assert_eq!(
        read("x.json", format!("{service}\n{bad_type}\n{service}")),
        ["Service a", "document 2:3:true", "Service a"]
    );
    assert_eq!(
        read("x.json", format!("{service}\n{{ \"kind\": \n{service}")),
        ["Service a", "document 2:3:true"]
    );
    assert_eq!(read("x.json", ""), [""; 0]);
    assert_eq!(read("x.yaml", service), ["Service a"], "YAML contains JSON");
}

#[test]
fn what_is_no_text_is_bad() {
    assert_eq!(read("x.yaml", b"kind: a\n\xff"), ["the file:2:true"]);
}

#[test]
fn a_large_list_is_no_attack_and_an_alias_bomb_is() {
    let item = "- { apiVersion: v1, kind: Service, metadata: { name: a }, spec: { clusterIP: 10.96.0.1 } }\n";
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}", item.repeat(30_000));
    assert_eq!(read("x.yaml", list).len(), 30_000);
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    bomb.push_str("apiVersion: v1\nkind: Service\nmetadata: { name: a }\n");
    let found = read("x.yaml", bomb);
    assert!(found.len() == 1 && found[0].ends_with(":true"), "{found:?}");
}

/// The short cut to a document's kind must not be mistaken; where it is not sure the parser decides.
#[test]
fn kinds_are_found_however_they_are_written() {
    for text in [
        "kind: Service\napiVersion: v1\nmetadata:\n  name: a\n",
        "# words\n---\nmetadata:\n  name: a\n  kind: Node\napiVersion: v1\nkind: Service",
        "kind: \"Service\"\napiVersion: 'v1'\nmetadata: { name: a }\n",
        "\"kind\": Service\napiVersion: v1 # first\nmetadata: { name: a }\n",
        "{ metadata: { name: a,\nkind: Node\n}, apiVersion: v1,\nkind: Service }\n",
        "kind:\n  Service\napiVersion: v1\nmetadata: { name: a }\n",
        "  kind: Service\n  apiVersion: v1\n  metadata: { name: a }\n",
        "apiVersion: v1\nmetadata:\n  name: a\n  annotations:\n    text: |\n      kind: Node\nkind: Service\n",
    ] {
        assert_eq!(read("x.yaml", text), ["Service a"], "{text}");
    }
    let twice = read("x.yaml", "kind: Node\napiVersion: v1\nkind: Service\nmetadata: { name: a }\n");
    assert_eq!(twice, ["document 1:3:true"], "a key given twice is an error, not a choice");
    let broken = read("x.yaml", "kind: Service\napiVersion: v1\nmetadata: [\n");
    assert!(broken.len() == 1 && broken[0].ends_with(":true"), "{broken:?}");
}
