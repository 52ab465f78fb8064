//! The figures of the service with and without authentication, as they are stored in the results file.

use serde::{Deserialize, Serialize};

use crate::{
    engines::Engine,
    loads::Load,
    spread::{Spread, spread},
};

/// How the service is started and called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// `auth.mode = off`
    Off,
    /// `auth.mode = required`, and each request has an API key.
    Key,
    /// Like [`Self::Off`], in another process: how much it differs from the first shows the noise.
    Control,
}

impl Access {
    pub const ALL: [Self; 3] = [Self::Off, Self::Key, Self::Control];

    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Key => "API key",
            Self::Control => "off, second process",
        }
    }
}

/// All figures, and the ratios that are computed from them.
#[derive(Default, Serialize, Deserialize)]
pub struct AuthFigures {
    /// The throughput of each other access divided by that of [`Access::Off`], by engine and workload.
    pub ratios: Vec<AuthRatio>,
    pub figures: Vec<AuthFigure>,
}

/// One measurement.
#[derive(Serialize, Deserialize)]
pub struct AuthFigure {
    pub engine: Engine,
    pub load: Load,
    pub access: Access,
    pub round: usize,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub errors: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct AuthRatio {
    pub engine: Engine,
    pub load: Load,
    pub access: Access,
    /// Over the rounds; each ratio is computed within its round.
    #[serde(flatten)]
    pub ratio: Spread,
}

impl AuthFigures {
    pub fn is_empty(&self) -> bool {
        self.figures.is_empty()
    }

    /// Adds a measurement and computes the ratios again.
    pub fn add(&mut self, figure: AuthFigure) {
        self.figures.push(figure);
        self.ratios.clear();
        for (engine, load) in self.measured() {
            for access in [Access::Key, Access::Control] {
                let ratio = spread(self.round_ratios(engine, load, access));
                self.ratios.extend(ratio.map(|ratio| AuthRatio { engine, load, access, ratio }));
            }
        }
    }

    /// The engines and workloads that were measured, in order.
    pub fn measured(&self) -> Vec<(Engine, Load)> {
        let mut measured: Vec<_> = self.figures.iter().map(|figure| (figure.engine, figure.load)).collect();
        measured.sort_unstable();
        measured.dedup();
        measured
    }

    /// The figures of one access, one per round.
    pub fn of(&self, engine: Engine, load: Load, access: Access) -> impl Iterator<Item = &AuthFigure> + Clone {
        self.figures.iter().filter(move |figure| (figure.engine, figure.load, figure.access) == (engine, load, access))
    }

    pub fn ratio(&self, engine: Engine, load: Load, access: Access) -> Option<Spread> {
        let mut ratios = self.ratios.iter();
        let ratio = ratios.find(|ratio| (ratio.engine, ratio.load, ratio.access) == (engine, load, access));
        ratio.map(|found| found.ratio)
    }

    /// The throughput divided by that without authentication, in each round that measured both.
    fn round_ratios(&self, engine: Engine, load: Load, access: Access) -> Vec<f64> {
        let ratio = |figure: &AuthFigure| {
            let off = self.of(engine, load, Access::Off).find(|off| off.round == figure.round)?;
            (off.per_second > 0.0).then(|| figure.per_second / off.per_second)
        };
        self.of(engine, load, access).filter_map(ratio).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_computed_within_each_round() {
        let mut auth = AuthFigures::default();
        // The last round has no measurement without authentication.
        for (round, off, key) in [(0, 1000.0, 900.0), (1, 2000.0, 1600.0), (2, 500.0, 500.0), (3, 0.0, 700.0)] {
            for (access, per_second) in [(Access::Key, key), (Access::Off, off)] {
                let (engine, load) = (Engine::Sqlite, Load::Get);
                let (p50_ms, p99_ms, errors) = (1.0, 2.0, 0);
                auth.add(AuthFigure { engine, load, access, round, per_second, p50_ms, p99_ms, errors });
            }
        }
        let expected = Spread { median: 0.9, min: 0.8, max: 1.0 };
        assert_eq!(auth.ratio(Engine::Sqlite, Load::Get, Access::Key), Some(expected));
        assert_eq!(auth.ratio(Engine::Sqlite, Load::Get, Access::Control), None);
        assert_eq!(auth.ratio(Engine::Postgres, Load::Get, Access::Key), None);
    }
}
