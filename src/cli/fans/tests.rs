//! Any input is read without harm, and no row is lost on the way to the service.

mod commanding;
mod hostile;
mod importing;
mod reading;
mod service;
mod splitting;

/// What `@` stands for in the inputs of tests: `@u1` is an invented id in the form of a real one.
const ID: &str = "oINVENTED-id-of-fan-";

/// `text` with [`ID`] in place of each `@`.
fn with_ids(text: &[u8]) -> Vec<u8> {
    text.split(|byte| *byte == b'@').collect::<Vec<_>>().join(ID.as_bytes())
}
