// SPDX-License-Identifier: GPL-2.0

//! The kernels that are built, and their configurations.

use clap::ValueEnum;

/// Which implementation of userfaultfd a kernel has.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub enum Impl {
    Rust,
    C,
}

/// An architecture of kernels.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    X86,
    Arm64,
}

impl Arch {
    /// The name that the kernel has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86",
            Self::Arm64 => "arm64",
        }
    }

    /// The name of the file that boots, which is also the target of make.
    pub fn image(self) -> &'static str {
        match self {
            Self::X86 => "bzImage",
            Self::Arm64 => "Image",
        }
    }

    /// The arguments of make that choose it and clang.
    pub fn clang(self) -> &'static str {
        match self {
            Self::X86 => "LLVM=-19",
            Self::Arm64 => "LLVM=-19 ARCH=arm64",
        }
    }

    /// The options that are not off, apart from the choices that a kernel makes.
    pub fn config(self) -> String {
        let own = match self {
            Self::X86 => include_str!("../config/x86.config"),
            Self::Arm64 => include_str!("../config/arm64.config"),
        };
        format!("{}{own}", include_str!("../config/kernel.config"))
    }
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
    /// Like `Plain`, but built with gcc.
    Gcc,
    /// For arm64, with pages of 4 KiB.
    Arm64,
    /// For arm64, with pages of 64 KiB.
    Arm64Pages64,
    /// With debug info, to find out which lines run.
    Coverage,
    /// Like `Plain`, but Rust code has no tracepoints, to find out what they cost.
    Untraced,
}

impl Flavour {
    pub fn arch(self) -> Arch {
        match self {
            Self::Plain | Self::Debug | Self::Rt | Self::Gcc | Self::Coverage | Self::Untraced => {
                Arch::X86
            }
            Self::Arm64 | Self::Arm64Pages64 => Arch::Arm64,
        }
    }

    /// The arguments of make that choose the architecture and the compiler.
    pub fn toolchain(self) -> &'static str {
        match self {
            Self::Gcc => "CC=gcc",
            _ => self.arch().clang(),
        }
    }

    /// What follows the implementation in names of directories and in messages.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Plain => ("", "kernel"),
            Self::Debug => ("-debug", "debug kernel"),
            Self::Rt => ("-rt", "PREEMPT_RT kernel"),
            Self::Gcc => ("-gcc", "kernel of gcc"),
            Self::Coverage => ("-coverage", "kernel with debug info"),
            Self::Untraced => ("-untraced", "kernel without tracepoints of Rust code"),
            Self::Arm64 => ("-arm64", "arm64 kernel"),
            Self::Arm64Pages64 => ("-arm64-64k", "arm64 kernel with 64K pages"),
        }
    }

    /// The options that differ from those of other flavours.
    fn config(self) -> &'static str {
        match self {
            Self::Plain | Self::Gcc | Self::Untraced => "",
            Self::Debug => include_str!("../config/debug.config"),
            Self::Rt => include_str!("../config/rt.config"),
            Self::Coverage => include_str!("../config/coverage.config"),
            Self::Arm64 => "CONFIG_ARM64_4K_PAGES=y\n",
            Self::Arm64Pages64 => "CONFIG_ARM64_64K_PAGES=y\n",
        }
    }

    /// Returns the features that the CPUs must not have. `identify_cpu()` reads the features of the
    /// boot CPU again while interrupts are on. If KASAN asks in an interrupt whether there are five
    /// levels of page tables, it may get a wrong answer, and take all memory for invalid.
    pub fn cpu_model(self) -> &'static str {
        match self {
            Self::Debug => ",la57=off",
            _ => "",
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
        format!("{}{}", self.imp.name(), self.flavour.names().0)
    }

    /// The name in messages.
    pub fn title(self) -> String {
        let imp = match self.imp {
            Impl::Rust => "Rust",
            Impl::C => "C",
        };
        format!("the {imp} {}", self.flavour.names().1)
    }

    /// The options that are not off.
    pub fn config(self) -> String {
        let mut config = self.flavour.arch().config();
        config.push_str(self.flavour.config());
        config.push_str(self.imp.config());
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debug_kernel_checks_the_accounting_of_memory() {
        let config = Kernel {
            imp: Impl::Rust,
            flavour: Flavour::Debug,
        }
        .config();
        // It warns about slab objects whose allocation was not recorded. Fails to build if
        // configure.sh does not find it in the result.
        assert!(config
            .lines()
            .any(|line| line == "CONFIG_MEM_ALLOC_PROFILING_DEBUG=y"));
    }
}
