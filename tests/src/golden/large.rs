//! The large scenario, which no file should hold.

use super::Scenario;

/// Services of the large scenario.
pub const LARGE: usize = 600;

/// Six hundred services of five endpoints in six files; a third of them changes, some go, some are made anew under other
/// names. The writer dies in the middle of each batch, and another one starts in the end.
pub fn large() -> Scenario {
    let file = |number: usize, round: usize| {
        let range = (number * LARGE / 6)..((number + 1) * LARGE / 6);
        let objects: String = range.map(|index| service(index, round)).collect();
        format!("@write part-{number}.yaml\n{objects}")
    };
    let first: String = (0..6).map(|number| file(number, 0)).collect();
    let changed: String = (2..4).map(|number| file(number, 1)).collect();
    let renamed = file(0, RENAMED);
    let steps = [
        "@kill 9000\n@expect\n",
        &changed,
        "@remove part-5.yaml\n@kill 3000\n@expect\n",
        &renamed,
        "@kill 2000\n@expect\n@restart\n@expect\n",
    ];
    Scenario::parse(&format!("@addresses 192.0.2.1\n{first}{}", steps.concat()))
}

/// The round in which services have other names, and all else is as in the first.
const RENAMED: usize = 2;

fn service(index: usize, round: usize) -> String {
    let ip = |net: &str, host: usize| format!("{net}.{}.{}", host / 250, host % 250);
    let (prefix, round) = if round == RENAMED { ("t", 0) } else { ("s", round) };
    let (vip, name) = (ip("10.96", index), format!("{prefix}{index}"));
    let hosts = (0..5).map(|endpoint| ip("10.1", index * 6 + endpoint + round));
    let endpoints: Vec<String> = hosts.map(|host| format!("- {{addresses: [\"{host}\"]}}\n")).collect();
    let endpoints = endpoints.concat();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: large}}\nspec:\n  clusterIP: {vip}\n  \
         clusterIPs: [\"{vip}\"]\n  ports: [{{port: {}, nodePort: {}}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: large, \
         labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\n\
         endpoints:\n{endpoints}---\n",
        80 + round,
        30_000 + index
    )
}
