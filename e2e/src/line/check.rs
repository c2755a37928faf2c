//! What must be true of a line that was played, checked by whoever was there: nothing here uses the gateway's code.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::Draw;
use super::account::Course;

/// One game that is over.
pub(super) struct Played {
    pub(super) courses: Vec<Course>,
    /// What was published before anybody came.
    pub(super) commitment: String,
    pub(super) draw: Draw,
    pub(super) heard_end_at: i64,
    pub(super) opens_at: DateTime<Utc>,
    /// Units held or sold, as the books say.
    pub(super) taken: i64,
    pub(super) consistent: bool,
}

/// What was found. Everything that must hold at any speed was checked already.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Findings {
    /// Units of people, and per person.
    pub people_units: usize,
    /// Units per account with a person behind it.
    pub per_person: f64,
    /// Units of bots.
    pub bot_units: usize,
    /// Units per account with a program behind it.
    pub per_bot: f64,
    /// How many took part in the draw.
    pub drawn: usize,
    /// From the last order that was accepted until the watcher heard the end, in ms.
    pub end_heard_after_ms: i64,
    /// From the last order that was accepted until the last question that was not answered "closed", in ms; below zero:
    /// there was none after it.
    pub last_open_after_ms: i64,
    /// From the opening to the last order that was accepted, in ms.
    pub sold_within_ms: i64,
}

impl Findings {
    /// Units of a bot's account for each of a person's.
    pub fn bot_advantage(&self) -> f64 {
        self.per_bot / self.per_person
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "units per person         {:.4} ({} units)", self.per_person, self.people_units)?;
        writeln!(f, "units per bot            {:.4} ({} units)", self.per_bot, self.bot_units)?;
        writeln!(f, "bot against person       {:.3}", self.bot_advantage())?;
        writeln!(f, "drawn, and verified      {}", self.drawn)?;
        writeln!(f, "sold out after           {} ms", self.sold_within_ms)?;
        writeln!(f, "end heard (stream)       {} ms after", self.end_heard_after_ms)?;
        write!(f, "last that was not closed {} ms after", self.last_open_after_ms)
    }
}

pub(super) fn findings(played: &Played) -> anyhow::Result<Findings> {
    let units = |is_bot: bool| {
        let courses = played.courses.iter().filter(|course| course.is_bot == is_bot);
        courses.fold((0, 0), |(units, accounts), course| (units + course.bought_ms.len(), accounts + 1))
    };
    let ((people_units, people), (bot_units, bots)) = (units(false), units(true));
    let told = i64::try_from(people_units + bot_units)?;
    ensure!(played.consistent && played.taken == told, "{told} were sold, the books say {}", played.taken);
    let last_order = played.courses.iter().flat_map(|course| &course.bought_ms).max();
    let last_order = *last_order.context("nobody bought anything")?;
    let opens_ms = played.opens_at.timestamp_millis();
    let early = played.courses.iter().filter_map(|course| course.admitted_ms).filter(|at| *at < opens_ms);
    ensure!(early.count() == 0, "somebody was let in before the opening");

    verify_draw(played)?;
    nobody_was_overtaken(played)?;
    let last_open = played.courses.iter().map(|course| course.last_open_ms).max().unwrap_or(0);
    Ok(Findings {
        people_units,
        per_person: people_units as f64 / f64::from(u32::try_from(people)?),
        bot_units,
        per_bot: bot_units as f64 / f64::from(u32::try_from(bots.max(1))?),
        drawn: played.draw.tickets.len(),
        end_heard_after_ms: played.heard_end_at - last_order,
        last_open_after_ms: last_open - last_order,
        sold_within_ms: last_order - opens_ms,
    })
}

/// As the published algorithm says: the commitment, the list, the order; and who was there in time is in it.
fn verify_draw(played: &Played) -> anyhow::Result<()> {
    let draw = &played.draw;
    let seed = hex::decode(draw.seed.as_ref().context("the seed is not published")?)?;
    ensure!(draw.commitment == played.commitment, "the commitment was exchanged");
    ensure!(hex::encode(Sha256::digest(&seed)) == draw.commitment, "the seed is not the one committed to");
    let mut sorted = draw.tickets.clone();
    sorted.sort_unstable();
    let list: String = sorted.iter().map(|ticket| format!("{ticket}\n")).collect();
    let list_hash = hex::encode(Sha256::digest(list.as_bytes()));
    ensure!(Some(&list_hash) == draw.list_hash.as_ref(), "the list is not the one that was closed");
    let mut keyed = Vec::with_capacity(sorted.len());
    for ticket in sorted {
        let mut mac = Hmac::<Sha256>::new_from_slice(&seed)?;
        mac.update(ticket.as_bytes());
        keyed.push((hex::encode(mac.finalize().into_bytes())[..13].to_owned(), ticket));
    }
    keyed.sort_unstable();
    let order = keyed.into_iter().map(|(_, ticket)| ticket);
    ensure!(order.eq(draw.tickets.iter().cloned()), "the line is not in the order that was drawn");

    let places: HashMap<&str, usize> = places(played);
    let opens_ms = played.opens_at.timestamp_millis();
    for course in &played.courses {
        let drawn = places.contains_key(course.ticket.as_str());
        let in_time = course.joined_ms < opens_ms;
        let late = course.join_sent_ms >= opens_ms;
        ensure!(!in_time || drawn, "{} was there in time and not drawn", course.user);
        ensure!(!late || !drawn, "{} came after the opening and was drawn", course.user);
    }
    Ok(())
}

/// Nobody who was behind somebody was let in before them.
fn nobody_was_overtaken(played: &Played) -> anyhow::Result<()> {
    let places = places(played);
    let (mut drawn, mut late) = (Vec::new(), Vec::new());
    for course in &played.courses {
        match places.get(course.ticket.as_str()) {
            Some(place) => drawn.push((*place, course)),
            None => late.push(course),
        }
    }
    drawn.sort_unstable_by_key(|(place, _)| *place);
    // Who waited at a moment was not let in before it.
    let not_before = |course: &Course| course.admitted_ms.unwrap_or(course.waited_ms);
    let mut ahead = (i64::MIN, "");
    for (_, course) in drawn {
        overtakes(course, ahead)?;
        ahead = ahead.max((not_before(course), course.user.as_str()));
    }
    // Of the later ones: whose answer came before another one's request was first. Both sorted, so each is looked at once.
    let mut by_answer = late.clone();
    by_answer.sort_unstable_by_key(|course| course.joined_ms);
    late.sort_unstable_by_key(|course| course.join_sent_ms);
    let mut earlier = by_answer.into_iter().peekable();
    for course in late {
        while let Some(one) = earlier.next_if(|one| one.joined_ms < course.join_sent_ms) {
            ahead = ahead.max((not_before(one), one.user.as_str()));
        }
        overtakes(course, ahead)?;
    }
    Ok(())
}

fn overtakes(course: &Course, (ahead_ms, ahead): (i64, &str)) -> anyhow::Result<()> {
    let let_in = course.admitted_ms.unwrap_or(i64::MAX);
    ensure!(
        let_in >= ahead_ms,
        "{} was let in {} ms before {ahead}, who came first",
        course.user,
        ahead_ms - let_in
    );
    Ok(())
}

fn places(played: &Played) -> HashMap<&str, usize> {
    played.draw.tickets.iter().enumerate().map(|(place, ticket)| (ticket.as_str(), place)).collect()
}
