//! The tokens of the admin API, from the configuration.

use crate::config::Admin;
use crate::domain::access::TokenScopes;
use crate::http::api::Token;

/// The tokens of the admin API.
pub(super) fn of(admin: &Admin) -> Vec<Token> {
    let full = admin.token.iter().map(|token| Token::new("admin", [&token.value], TokenScopes::all()));
    let further = admin.tokens.iter().map(|token| {
        let values = [Some(&token.token), token.previous_token.as_ref()].into_iter().flatten();
        Token::new(token.name.as_str(), values.map(|secret| &secret.value), token.allow.clone())
    });
    full.chain(further).collect()
}
