//! Caps on size: what does not fit a screen is not reviewed.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, FnArg, Meta, Signature};

use crate::source::Source;

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 60;
/// An entry point only turns its context into arguments.
const ENTRY_LINES: usize = 25;
const PARAMETERS: usize = 4;

/// Attributes that a function of the eBPF crate may carry without being an entry point.
const PLAIN: [&str; 11] = [
    "allow",
    "cfg",
    "cold",
    "doc",
    "expect",
    "inline",
    "must_use",
    "no_mangle",
    "panic_handler",
    "test",
    "unsafe",
];

/// What is too large in `source`.
pub(crate) fn breaches(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let mut visitor = Functions { path: &source.path, breaches: Vec::new() };
    if lines > FILE_LINES {
        visitor.breaches.push(format!("{}: {lines} lines; the cap is {FILE_LINES}", source.path));
    }
    visitor.visit_file(&source.file);
    visitor.breaches
}

struct Functions<'a> {
    path: &'a str,
    breaches: Vec<String>,
}

impl Functions<'_> {
    fn check(&mut self, attributes: &[Attribute], signature: &Signature, block: &Block) {
        let is_entry = self.path.starts_with("proxy-ebpf/") && attributes.iter().any(is_hook);
        let cap = if is_entry { ENTRY_LINES } else { FUNCTION_LINES };
        let lines = block.span().end().line - signature.span().start().line + 1;
        if lines > cap {
            self.breaches
                .push(format!("{}: `{}`: {lines} lines; the cap is {cap}", self.path, signature.ident));
        }
        self.check_parameters(signature);
    }

    fn check_parameters(&mut self, signature: &Signature) {
        let parameters = signature.inputs.iter().filter(|input| matches!(input, FnArg::Typed(_))).count();
        if parameters > PARAMETERS {
            let name = &signature.ident;
            self.breaches
                .push(format!("{}: `{name}`: {parameters} parameters; the cap is {PARAMETERS}", self.path));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.check(&function.attrs, &function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check(&function.attrs, &function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        match &function.default {
            Some(block) => self.check(&function.attrs, &function.sig, block),
            None => self.check_parameters(&function.sig),
        }
        visit::visit_trait_item_fn(self, function);
    }
}

fn is_hook(attribute: &Attribute) -> bool {
    let path = match &attribute.meta {
        Meta::Path(path) => path,
        Meta::List(list) => &list.path,
        Meta::NameValue(pair) => &pair.path,
    };
    !PLAIN.iter().any(|plain| path.is_ident(plain))
}

#[cfg(test)]
mod tests {
    use super::{Source, breaches};

    fn count(path: &str, text: &str) -> usize {
        breaches(&Source::parse(path, text)).len()
    }

    #[test]
    fn long_files_functions_and_entry_points_are_found() {
        let body = |lines| format!("fn f() {{\n{}}}\n", "g();\n".repeat(lines));
        assert_eq!(count("a.rs", &"// Line.\n".repeat(501)), 1);
        assert_eq!(count("a.rs", &body(58)), 0);
        assert_eq!(count("a.rs", &body(59)), 1);
        let hook = |lines| format!("#[classifier]\n{}", body(lines));
        assert_eq!(count("proxy-ebpf/src/main.rs", &hook(23)), 0);
        assert_eq!(count("proxy-ebpf/src/main.rs", &hook(24)), 1);
        assert_eq!(count("proxy-ebpf/src/main.rs", &format!("#[inline(always)]\n{}", body(24))), 0);
    }

    #[test]
    fn a_fifth_parameter_is_found_and_self_is_none() {
        assert_eq!(count("a.rs", "impl A { fn f(&self, a: u8, b: u8, c: u8, d: u8) {} }"), 0);
        assert_eq!(count("a.rs", "fn f(a: u8, b: u8, c: u8, d: u8, e: u8) {}"), 1);
        assert_eq!(count("a.rs", "trait A { fn f(a: u8, b: u8, c: u8, d: u8, e: u8); }"), 1);
    }
}
