//! Any input is read without harm, and no row is lost on the way to the service.

mod commanding;
mod hostile;
mod importing;
mod reading;
mod service;
mod splitting;
