//! What the benchmarks of the HTTP layer share: the services that are compared, the requests they are sent, and what is
//! tried on them.

pub mod count;
pub mod crowd;
pub mod entrants;
pub mod faults;
pub mod load;
pub mod request;
pub mod rounds;
