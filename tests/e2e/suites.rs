//! The sections of suites in the configuration of a test world.

use unionlink::simulator::TemplateSpec;

/// The name of the nth template in the configuration: `agency`, `agency2` and so on.
pub fn name(n: usize) -> String {
    if n == 0 { "agency".to_owned() } else { format!("agency{}", n + 1) }
}

/// The sections of these templates; `further` are lines of the first.
pub fn sections(templates: &[TemplateSpec], further: &str) -> String {
    let section = |(n, template): (usize, &TemplateSpec)| {
        let TemplateSpec { provider_corp_id, suite_id, suite_secret, callback } = template;
        let further = if n == 0 { further } else { "" };
        format!(
            "[[suites]]\nname = \"{}\"\nprovider_corp_id = \"{provider_corp_id}\"\nsuite_id = \"{suite_id}\"\n\
             suite_secret = {{ value = \"{suite_secret}\" }}\ncallback_token = {{ value = \"{}\" }}\n\
             encoding_aes_key = {{ value = \"{}\" }}\n{further}\n",
            name(n),
            callback.token,
            callback.aes_key,
        )
    };
    templates.iter().enumerate().map(section).collect()
}
