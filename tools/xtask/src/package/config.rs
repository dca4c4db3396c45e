// SPDX-License-Identifier: GPL-2.0

//! The configuration of the user's own kernel, and what has to change in it.

use anyhow::{bail, Context, Result};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The options of a kernel with their values, without `CONFIG_` and as in the file: strings have
/// their quotes, and options that are off have `n`.
#[derive(Clone, Default)]
pub struct Config(BTreeMap<String, String>);

/// One change, and why it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub option: &'static str,
    pub value: &'static str,
    pub why: &'static str,
}

impl Config {
    pub fn parse(text: &str) -> Self {
        let options = text.lines().filter_map(|line| {
            if let Some(rest) = line.strip_prefix("# CONFIG_") {
                Some((rest.strip_suffix(" is not set")?, "n"))
            } else {
                line.strip_prefix("CONFIG_")?.split_once('=')
            }
        });
        Self(
            options
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
        )
    }

    /// Returns the value of an option: `n` if the file does not name it.
    pub fn get(&self, option: &str) -> &str {
        self.0.get(option).map_or("n", String::as_str)
    }

    pub fn on(&self, option: &str) -> bool {
        self.get(option) == "y"
    }

    /// Whether it is built in, or a module.
    pub fn has(&self, option: &str) -> bool {
        ["y", "m"].contains(&self.get(option))
    }

    /// Whether an option with a text has none.
    fn is_empty(&self, option: &str) -> bool {
        ["n", "\"\""].contains(&self.get(option))
    }

    /// Whether a number is less than another.
    fn is_less(&self, option: &str, than: u32) -> bool {
        self.get(option)
            .parse()
            .is_ok_and(|number: u32| number < than)
    }

    pub fn len(&self) -> usize {
        self.0.values().filter(|value| *value != "n").count()
    }

    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.0.insert(change.option.into(), change.value.into());
        }
    }

    /// Returns the options that have another value in `new`, with the old value and the new one.
    /// What describes the tools, and not the kernel, is left out.
    pub fn changed<'a>(&'a self, new: &'a Self) -> Vec<(&'a str, &'a str, &'a str)> {
        let values = self.0.iter().map(|(option, value)| {
            let name = option.as_str();
            (name, value.as_str(), new.get(name))
        });
        values
            .filter(|(option, old, new)| old != new && !about_tools(option))
            .collect()
    }

    pub fn text(&self) -> String {
        let lines = self.0.iter().map(|(option, value)| match value.as_str() {
            "n" => format!("# CONFIG_{option} is not set\n"),
            value => format!("CONFIG_{option}={value}\n"),
        });
        lines.collect()
    }
}

/// Whether an option says what a compiler or another tool can do, or which version it has.
fn about_tools(option: &str) -> bool {
    let prefixes = [
        "ARCH_HAS_",
        "ARCH_SUPPORTS_",
        "ARCH_USE_",
        "ARCH_WANT_",
        "AS_",
        "CC_CAN_",
        "CC_HAS_",
        "CC_HAVE_",
        "CC_IS_",
        "CC_VERSION_TEXT",
        "CLANG_VERSION",
        "GCC_VERSION",
        "HAVE_",
        "LD_CAN_",
        "LD_IS_",
        "LD_VERSION",
        "LLD_VERSION",
        "PAHOLE_",
        "RUSTC_",
        "TOOLS_SUPPORT_",
    ];
    prefixes.iter().any(|prefix| option.starts_with(prefix))
}

/// Options that name files of the machine that the configuration is from.
const FILES: [&str; 4] = [
    "EXTRA_FIRMWARE",
    "INITRAMFS_SOURCE",
    "SYSTEM_BLACKLIST_HASH_LIST",
    "UNUSED_KSYMS_WHITELIST",
];

/// Reads the configuration that the user named, or that of the kernel that runs. Returns where it
/// was, too.
pub fn read(named: Option<&Path>) -> Result<(PathBuf, Config)> {
    let file = match named {
        Some(file) => file.to_path_buf(),
        None => {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
            let own = format!("/boot/config-{}", release.trim());
            let candidates = [own.as_str(), "/proc/config.gz"].map(PathBuf::from);
            let Some(found) = candidates.into_iter().find(|file| file.exists()) else {
                bail!(
                    "there is neither {own} nor /proc/config.gz: name the configuration of your \
                     kernel with --config"
                );
            };
            found
        }
    };
    let mut contents =
        fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    if contents.starts_with(&[0x1f, 0x8b]) {
        let unpacked = Command::new("gzip")
            .arg("-dc")
            .arg(&file)
            .output()
            .context("cannot run gzip: is it installed?")?;
        if !unpacked.status.success() {
            bail!("{} is damaged: gzip cannot unpack it", file.display());
        }
        contents = unpacked.stdout;
    }
    let config = Config::parse(&String::from_utf8_lossy(&contents));
    if config.len() == 0 {
        bail!(
            "{} is no kernel configuration: name a file such as /boot/config-* or .config with \
             --config",
            file.display()
        );
    }
    if !config.on("X86_64") {
        bail!(
            "{} is for another architecture, and packages are made for x86-64 only",
            file.display()
        );
    }
    let named = FILES.iter().find(|option| !config.is_empty(option));
    if let Some(option) = named {
        bail!(
            "{}: CONFIG_{option} names files, which the build would not find: take it out",
            file.display()
        );
    }
    Ok((file, config))
}

const fn change(option: &'static str, value: &'static str, why: &'static str) -> Change {
    Change { option, value, why }
}

/// Returns what has to change. `CONFIG_RUST` depends on the absence of several options, and a
/// distribution's configuration names files that only the distribution has.
pub fn changes(config: &Config) -> Vec<Change> {
    let mut changes = vec![
        change("RUST", "y", "the implementation is in Rust"),
        change("USERFAULTFD", "y", "what this is about"),
        change(
            "USERFAULTFD_RUST",
            "y",
            "chooses the implementation in Rust",
        ),
        change(
            "LOCALVERSION_AUTO",
            "n",
            "the name of the release should not depend on how the source is kept",
        ),
    ];
    let name = config.get("LOCALVERSION").trim_matches('"');
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".+-".contains(c);
    if !name.chars().all(plain) {
        let why = "the name of a package has no capitals and no underscores";
        changes.push(change("LOCALVERSION", "\"\"", why));
    }
    let lto = config.on("LTO_CLANG_FULL") || config.on("LTO_CLANG_THIN");
    if config.on("MODVERSIONS") {
        let full = config.on("DEBUG_INFO")
            && !config.on("DEBUG_INFO_REDUCED")
            && !config.on("DEBUG_INFO_SPLIT");
        if full && !lto {
            let why = "versions of symbols have to come from debug info, because Rust has no \
                       other source for them";
            changes.push(change("GENKSYMS", "n", why));
            changes.push(change("GENDWARFKSYMS", "y", why));
        } else {
            let why = "with Rust, versions of symbols need full debug info and no LTO";
            changes.push(change("MODVERSIONS", "n", why));
        }
    }
    if config.on("RANDSTRUCT_FULL") || config.on("RANDSTRUCT_PERFORMANCE") {
        let why = "rustc does not know the order of fields that the C compiler has shuffled";
        changes.push(change("RANDSTRUCT_FULL", "n", why));
        changes.push(change("RANDSTRUCT_PERFORMANCE", "n", why));
        changes.push(change("RANDSTRUCT_NONE", "y", why));
    }
    if config.on("DEBUG_INFO_BTF") && lto {
        let why = "with LTO, pahole cannot tell which debug info is of Rust";
        changes.push(change("DEBUG_INFO_BTF", "n", why));
    }
    for option in ["SYSTEM_TRUSTED_KEYS", "SYSTEM_REVOCATION_KEYS"] {
        if !config.is_empty(option) {
            changes.push(change(
                option,
                "\"\"",
                "these certificates are in the distribution's source, and not in this one",
            ));
        }
    }
    let own_key = "\"certs/signing_key.pem\"";
    if !config.is_empty("MODULE_SIG_KEY") && config.get("MODULE_SIG_KEY") != own_key {
        let why = "the key is not here, and the build makes another one";
        changes.push(change("MODULE_SIG_KEY", own_key, why));
    }
    changes.retain(|change| config.get(change.option) != change.value);
    changes
}

/// Fails if Kconfig did not accept `changes`, and says why as far as it is known.
pub fn check(result: &Config, changes: &[Change]) -> Result<()> {
    let is_as_wanted = |change: &Change| match change.value {
        "\"\"" => result.is_empty(change.option),
        value => result.get(change.option) == value,
    };
    let refused = changes.iter().filter(|change| !is_as_wanted(change));
    let options: Vec<_> = refused.map(|change| change.option).collect();
    if options.is_empty() {
        return Ok(());
    }
    let reason = options
        .contains(&"RUST")
        .then(|| obstacle(result))
        .flatten()
        .unwrap_or("it depends on others: search for it with `/` in `make menuconfig`");
    bail!(
        "this configuration cannot have CONFIG_{}: {reason}",
        options.join(", CONFIG_")
    );
}

/// Returns what in a configuration excludes `CONFIG_RUST`: its dependencies in init/Kconfig.
fn obstacle(result: &Config) -> Option<&'static str> {
    let on = |option| result.on(option);
    let lto = on("LTO_CLANG_FULL") || on("LTO_CLANG_THIN");
    if on("MODVERSIONS") && !on("GENDWARFKSYMS") {
        Some(
            "turn CONFIG_MODVERSIONS off, which needs CONFIG_GENDWARFKSYMS, which with \
             CONFIG_DEBUG_INFO_BTF excludes pahole 1.28 and 1.29",
        )
    } else if on("DEBUG_INFO_BTF") && (lto || result.is_less("PAHOLE_VERSION", 124)) {
        Some("turn CONFIG_DEBUG_INFO_BTF off, which needs pahole 1.24 and excludes LTO")
    } else if on("CFI") && !on("HAVE_CFI_ICALL_NORMALIZE_INTEGERS_RUSTC") {
        Some("turn CONFIG_CFI off, for which this rustc cannot name types as clang does")
    } else if on("CALL_PADDING") && result.is_less("RUSTC_VERSION", 108100) {
        Some("CONFIG_CALL_PADDING needs rustc 1.81: install it, or leave --host-tools out")
    } else if on("KASAN") && on("MITIGATION_RETHUNK") && result.is_less("RUSTC_VERSION", 108300) {
        Some("CONFIG_KASAN needs rustc 1.83: install it, or leave --host-tools out")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn options(config: &str) -> Vec<String> {
        let changes = changes(&Config::parse(config));
        let lines = changes.iter().map(|c| format!("{}={}", c.option, c.value));
        lines.collect()
    }

    const NEEDED: [&str; 3] = ["RUST=y", "USERFAULTFD=y", "USERFAULTFD_RUST=y"];

    #[test]
    fn only_what_has_to_change_changes() {
        assert_eq!(options("CONFIG_X86_64=y\n"), NEEDED);
        let ready = "CONFIG_RUST=y\nCONFIG_USERFAULTFD=y\nCONFIG_USERFAULTFD_RUST=y\n";
        assert!(options(ready).is_empty());
    }

    #[test]
    fn symbols_have_versions_from_debug_info_if_there_is_some() {
        let changed = |config| options(config)[3..].join(" ");
        let full = "CONFIG_MODVERSIONS=y\nCONFIG_GENKSYMS=y\nCONFIG_DEBUG_INFO=y\n";
        assert_eq!(changed(full), "GENKSYMS=n GENDWARFKSYMS=y");
        let reduced = format!("{full}CONFIG_DEBUG_INFO_REDUCED=y\n");
        assert_eq!(changed(&reduced), "MODVERSIONS=n");
        let lto = format!("{full}CONFIG_LTO_CLANG_THIN=y\nCONFIG_DEBUG_INFO_BTF=y\n");
        assert_eq!(changed(&lto), "MODVERSIONS=n DEBUG_INFO_BTF=n");
    }

    #[test]
    fn files_of_the_distribution_are_not_asked_for() {
        let config = "CONFIG_SYSTEM_TRUSTED_KEYS=\"debian/certs/all.pem\"\n\
                      CONFIG_SYSTEM_REVOCATION_KEYS=\"\"\n\
                      CONFIG_MODULE_SIG_KEY=\"debian/key.pem\"\n\
                      CONFIG_LOCALVERSION=\"-WSL2\"\n\
                      CONFIG_LOCALVERSION_AUTO=y\n";
        assert_eq!(
            options(config)[3..],
            [
                "LOCALVERSION_AUTO=n",
                "LOCALVERSION=\"\"",
                "SYSTEM_TRUSTED_KEYS=\"\"",
                "MODULE_SIG_KEY=\"certs/signing_key.pem\""
            ]
        );
    }

    #[test]
    fn differences_are_those_of_the_kernel() {
        let old =
            Config::parse("CONFIG_A=y\nCONFIG_B=m\nCONFIG_CC_IS_GCC=y\n# CONFIG_C is not set\n");
        let new = Config::parse("CONFIG_A=y\nCONFIG_C=y\nCONFIG_D=y\n");
        assert_eq!(old.changed(&new), [("B", "m", "n"), ("C", "n", "y")]);
        assert_eq!(Config::parse(&old.text()).text(), old.text());
    }

    #[test]
    fn errors_say_what_to_do() -> Result<()> {
        let scratch = Scratch::new()?;
        let error = |file: &str| {
            let error = read(Some(&scratch.0.join(file))).err();
            error.map(|error| format!("{error:#}")).unwrap_or_default()
        };
        scratch.write("arm", "CONFIG_ARM64=y\n")?;
        scratch.write("text", "hello\n")?;
        scratch.write("bad.gz", [0x1f, 0x8b, 0])?;
        assert!(error("none").contains("cannot read"));
        assert!(error("arm").contains("x86-64 only"));
        assert!(error("text").contains("--config"));
        assert!(error("bad.gz").contains("damaged"));
        let firmware = "CONFIG_X86_64=y\nCONFIG_EXTRA_FIRMWARE=\"a.bin\"\n";
        scratch.write("firmware", firmware)?;
        assert!(error("firmware").contains("CONFIG_EXTRA_FIRMWARE"));

        let wanted = changes(&Config::default());
        let refused = |config: &str| match check(&Config::parse(config), &wanted) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(refused("CONFIG_MODVERSIONS=y\n").contains("GENDWARFKSYMS"));
        assert!(refused("CONFIG_DEBUG_INFO_BTF=y\n").contains("menuconfig"));
        let old = "CONFIG_DEBUG_INFO_BTF=y\nCONFIG_PAHOLE_VERSION=122\n";
        assert!(refused(old).contains("pahole 1.24"));
        let rust = "CONFIG_RUST=y\nCONFIG_USERFAULTFD=y\n";
        assert!(refused(rust).contains("menuconfig"));
        assert!(refused(&format!("{rust}CONFIG_USERFAULTFD_RUST=y\n")).is_empty());
        Ok(())
    }
}
