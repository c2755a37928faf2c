//! Raises the least number of replicas before a sale of the calendar opens, and lowers it afterwards.
//!
//! A sale's first second brings more buyers than the ten minutes before it: an autoscaler that follows load is late by
//! half a minute, which is when the sale is over. But sales are announced, so the calendar says when to be many.
//!
//! [`calendar`] decides, [`cluster`] sets. Run once a minute; each run sets what should be, whatever the last one did.

pub mod calendar;
pub mod cluster;
