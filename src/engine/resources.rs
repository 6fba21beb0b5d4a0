//! Named amounts that running cells hold: `cpu`, `gpu`, `memory`, and any other name.
//!
//! A cell that asks for nothing holds nothing; `-j` alone bounds how many run. A GPU is handed out by its index, which
//! the cell finds in `CUDA_VISIBLE_DEVICES`.

use std::collections::{BTreeMap, BTreeSet};

use super::EngineError;
use crate::pipeline::model::Pipeline;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacities(pub BTreeMap<String, u64>);

impl Capacities {
    /// What this machine has: its cores, its memory in bytes, its NVIDIA GPUs.
    pub fn of_this_machine() -> Capacities {
        let cpu = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        Capacities(BTreeMap::from([
            ("cpu".to_owned(), cpu),
            ("gpu".to_owned(), gpus()),
            ("memory".to_owned(), memory().unwrap_or(u64::MAX)),
        ]))
    }

    /// Refuses stages that ask for more than there is: they would wait forever.
    pub fn check(&self, pipeline: &Pipeline) -> Result<(), EngineError> {
        for stage in &pipeline.stages {
            for (resource, &asked) in &stage.policy.resources {
                let capacity = self.0.get(resource).copied().unwrap_or(0);
                if asked > capacity {
                    return Err(EngineError::Resource {
                        stage: stage.name.to_string(),
                        resource: resource.clone(),
                        asked,
                        capacity,
                        advice: format!(
                            "ask for less, or say how much there is: --resource {resource}={asked}, or \
                             `resources: {{ {resource}: {asked} }}` at the top of the pipeline"
                        ),
                    });
                }
            }
        }
        Ok(())
    }
}

fn gpus() -> u64 {
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return visible.split(',').filter(|index| !index.trim().is_empty()).count() as u64;
    }
    std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |gpus| gpus.count() as u64)
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// What a running cell holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    amounts: BTreeMap<String, u64>,
    /// Indices of the GPUs it was given.
    pub gpus: Vec<u64>,
}

/// What is free.
#[derive(Debug)]
pub struct Pool {
    free: BTreeMap<String, u64>,
    gpus: u64,
    taken_gpus: BTreeSet<u64>,
}

impl Pool {
    /// Everything is free.
    pub fn new(capacities: &Capacities) -> Pool {
        let gpus = capacities.0.get("gpu").copied().unwrap_or(0);
        Pool { free: capacities.0.clone(), gpus, taken_gpus: BTreeSet::new() }
    }

    /// Takes `wanted`, all of it or nothing.
    pub fn take(&mut self, wanted: &BTreeMap<String, u64>) -> Option<Held> {
        let enough = |(name, amount): (&String, &u64)| self.free.get(name).copied().unwrap_or(0) >= *amount;
        if !wanted.iter().all(enough) {
            return None;
        }
        for (name, amount) in wanted {
            if let Some(free) = self.free.get_mut(name) {
                *free -= amount;
            }
        }
        let count = wanted.get("gpu").copied().unwrap_or(0);
        let free = (0..self.gpus).filter(|gpu| !self.taken_gpus.contains(gpu));
        let gpus: Vec<u64> = free.take(usize::try_from(count).unwrap_or(usize::MAX)).collect();
        self.taken_gpus.extend(&gpus);
        Some(Held { amounts: wanted.clone(), gpus })
    }

    /// Gives back what a cell held.
    pub fn give_back(&mut self, held: Held) {
        for (name, amount) in held.amounts {
            if let Some(free) = self.free.get_mut(&name) {
                *free += amount;
            }
        }
        for gpu in held.gpus {
            self.taken_gpus.remove(&gpu);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Any order of taking and giving back: never more out than there is, no GPU twice, all free in the end.
        #[test]
        fn nothing_is_oversubscribed(steps in prop::collection::vec((0u64..4, 0u64..5, any::<bool>()), 0..60)) {
            let capacities = Capacities(BTreeMap::from([("gpu".into(), 3), ("licence".into(), 4)]));
            let mut pool = Pool::new(&capacities);
            let mut out: Vec<Held> = vec![];
            for (gpu, licence, give) in steps {
                let wanted = BTreeMap::from([("gpu".to_owned(), gpu), ("licence".to_owned(), licence)]);
                if give && !out.is_empty() {
                    pool.give_back(out.remove(0));
                } else if let Some(held) = pool.take(&wanted) {
                    out.push(held);
                }
                let mut gpus: Vec<u64> = out.iter().flat_map(|held| held.gpus.clone()).collect();
                let total = gpus.len();
                gpus.sort_unstable();
                gpus.dedup();
                prop_assert_eq!(gpus.len(), total);
                prop_assert!(total <= 3);
                prop_assert!(out.iter().map(|held| held.amounts["licence"]).sum::<u64>() <= 4);
            }
            out.into_iter().for_each(|held| pool.give_back(held));
            prop_assert_eq!(&pool.free, &capacities.0);
            prop_assert!(pool.taken_gpus.is_empty());
        }
    }
}
