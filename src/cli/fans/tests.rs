//! Reading whatever is thrown at it, and losing nothing on the way to the service.

mod commanding;
mod hostile;
mod importing;
mod reading;
mod service;
mod splitting;
