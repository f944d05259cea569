//! How many connections there are, in all and from each address (P-30).
//!
//! Not here: what a connection is told that finds no place (`serve`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Taken {
    all: u32,
    by_address: HashMap<IpAddr, u32>,
}

/// The places that there are.
#[derive(Clone, Debug)]
pub(crate) struct Seats {
    taken: Arc<Mutex<Taken>>,
    max: u32,
    per_address_max: Option<u32>,
}

impl Seats {
    pub(crate) fn new(max: u32, per_address_max: Option<u32>) -> Self {
        let taken = Taken { all: 0, by_address: HashMap::new() };
        Self { taken: Arc::new(Mutex::new(taken)), max, per_address_max }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Both counts change under one lock, by code that does not panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, or says which limit is reached.
    pub(crate) fn take(&self, address: IpAddr) -> Result<Seat, String> {
        let mut taken = self.lock();
        if taken.all >= self.max {
            return Err(format!("{} connections are open, which is the limit", taken.all));
        }
        let own = taken.by_address.entry(address).or_default();
        if self.per_address_max.is_some_and(|max| *own >= max) {
            return Err(format!(
                "{own} connections from this address are open, which is the limit"
            ));
        }
        *own += 1;
        taken.all += 1;
        Ok(Seat { seats: self.clone(), address })
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Seats,
    address: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.all -= 1;
        let own = taken.by_address.get_mut(&self.address).expect("it was counted");
        *own -= 1;
        if *own == 0 {
            taken.by_address.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let seats = Seats::new(3, Some(2));
        let (one, two) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        let held: Vec<_> = (0..2).map(|_| seats.take(one).unwrap()).collect();
        assert!(seats.take(one).unwrap_err().contains("from this address"));
        let other = seats.take(two).unwrap();
        assert!(seats.take(two).unwrap_err().starts_with("3 connections"));
        drop((held, other));
        assert!(seats.lock().by_address.is_empty());
        assert!(seats.take(one).is_ok());
    }
}
