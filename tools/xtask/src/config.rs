// SPDX-License-Identifier: GPL-2.0

//! The kernels that are built, and their configurations.

use clap::ValueEnum;

/// Which implementation of userfaultfd a kernel has.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub enum Impl {
    Rust,
    C,
}

/// The other options that a kernel is built with.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// For the default tests.
    Plain,
    /// With sanitizers, lockdep and assertions.
    Debug,
    /// With PREEMPT_RT.
    Rt,
}

impl Flavour {
    /// Returns the features that the CPUs must not have. `identify_cpu()` reads the features of the
    /// boot CPU again while interrupts are on. If KASAN asks in an interrupt whether there are five
    /// levels of page tables, it may get a wrong answer, and take all memory for invalid.
    pub fn cpu_model(self) -> &'static str {
        match self {
            Self::Debug => ",la57=off",
            Self::Plain | Self::Rt => "",
        }
    }
}

/// A kernel: its implementation and its flavour.
#[derive(Copy, Clone, Debug)]
pub struct Kernel {
    pub imp: Impl,
    pub flavour: Flavour,
}

impl Impl {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
        }
    }

    /// The option that chooses it.
    fn config(self) -> &'static str {
        match self {
            Self::Rust => "CONFIG_USERFAULTFD_RUST=y\n",
            Self::C => "# CONFIG_USERFAULTFD_RUST is not set\n",
        }
    }
}

impl Kernel {
    pub fn plain(imp: Impl) -> Self {
        Self {
            imp,
            flavour: Flavour::Plain,
        }
    }

    /// The name of its directory.
    pub fn name(self) -> String {
        let name = self.imp.name();
        match self.flavour {
            Flavour::Plain => name.into(),
            Flavour::Debug => format!("{name}-debug"),
            Flavour::Rt => format!("{name}-rt"),
        }
    }

    /// The name in messages.
    pub fn title(self) -> String {
        let name = match self.imp {
            Impl::Rust => "Rust",
            Impl::C => "C",
        };
        match self.flavour {
            Flavour::Plain => format!("the {name} kernel"),
            Flavour::Debug => format!("the {name} debug kernel"),
            Flavour::Rt => format!("the {name} PREEMPT_RT kernel"),
        }
    }

    /// The options that are not off.
    pub fn config(self) -> String {
        let mut config = String::from(include_str!("../config/kernel.config"));
        config.push_str(match self.flavour {
            Flavour::Plain => "",
            Flavour::Debug => include_str!("../config/debug.config"),
            Flavour::Rt => include_str!("../config/rt.config"),
        });
        config.push_str(self.imp.config());
        config
    }
}
