// SPDX-License-Identifier: GPL-2.0

//! Building kernels and selftests.

use crate::{
    config::{Impl, Kernel},
    lab::{self, Lab, Mounts},
    ui::Ui,
};
use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The places that building needs.
pub struct Builder<'a> {
    pub ui: &'a Ui,
    pub lab: &'a Lab,
    /// The source tree.
    pub src: &'a Path,
    /// What identifies its contents.
    pub series: &'a str,
    pub cache: &'a Path,
    /// `target/kernel`
    pub results: &'a Path,
}

/// Makes the configuration if it has to change. Options that did not make it are an error: they
/// depend on something that is not there.
const CONFIGURE: &str = r##"
set -e
cd "$src"
if ! cmp -s "$out/wanted.config" "$build/wanted.config"; then
	KCONFIG_ALLCONFIG="$out/wanted.config" make LLVM=-19 O="$build" allnoconfig >/dev/null
	# The last line about an option counts.
	sed -n 's/^# \(CONFIG_[A-Za-z0-9_]*\) is not set$/\1=n/p; /^CONFIG_/p' "$out/wanted.config" |
		awk -F= '{ last[$1] = $0 } END { for (name in last) print last[name] }' > "$build/wanted"
	while read -r line; do
		name=${line%%=*}
		if [ "$line" = "$name=n" ]; then
			grep -q "^$name=" "$build/.config" || continue
		else
			grep -qxF "$line" "$build/.config" && continue
		fi
		echo "not possible: $line"; bad=1
	done < "$build/wanted"
	test -z "$bad"
	cp "$out/wanted.config" "$build/wanted.config"
fi
"##;

/// Builds a kernel. Clippy makes the same objects as the compiler, and says more. Also makes a
/// policy for SELinux that allows everything but to create anonymous inodes.
const BUILD: &str = r#"
set -e
make -C "$src" LLVM=-19 O="$build" CLIPPY=1 -j"$(nproc)" bzImage
cp "$build"/arch/x86/boot/bzImage "$build"/vmlinux "$out"
cp "$build"/.config "$out"/config
cd "$build"
scripts/selinux/mdp/mdp policy.conf file_contexts
sed -i 's/^allow base_t base_t:anon_inode \*;/allow base_t base_t:anon_inode { read write ioctl };/' \
	policy.conf
# The compiler of policies may not know all that this kernel does.
sed -i '/^policycap /d' policy.conf
grep -q 'anon_inode { read' policy.conf
checkpolicy -o "$out"/selinux.policy policy.conf
"#;

impl Builder<'_> {
    fn build_tree(&self, kernel: Kernel) -> PathBuf {
        self.cache.join("build").join(kernel.name())
    }

    /// Builds a kernel unless it is there. Returns the directory that it is in.
    pub fn kernel(&self, kernel: Kernel) -> Result<PathBuf> {
        let out = self.results.join(kernel.name());
        let config = kernel.config();
        let key = self.key(&config)?;
        if fs::read_to_string(out.join("key")).is_ok_and(|have| have == key) {
            return Ok(out);
        }

        fs::create_dir_all(&out)?;
        let _ = fs::remove_file(out.join("key"));
        fs::write(out.join("wanted.config"), &config)?;
        let build = self.build_tree(kernel);
        self.seed(kernel, &build)?;
        let mounts = Mounts {
            src: self.src,
            build: &build,
            out: &out,
        };
        self.ui.run(
            &format!("config-{}", kernel.name()),
            &format!("Configuring {}", kernel.title()),
            &mut self.lab.sh(&mounts, &self.script(&mounts, CONFIGURE)),
        )?;
        let log = format!("build-{}", kernel.name());
        self.ui.run(
            &log,
            &format!("Building {}", kernel.title()),
            &mut self.lab.sh(&mounts, &self.script(&mounts, BUILD)),
        )?;
        refuse_warnings(self.ui, &log)?;
        fs::write(out.join("key"), key)?;
        Ok(out)
    }

    /// The first tree of a flavour starts as a copy of the other implementation's, from which it
    /// differs in little.
    fn seed(&self, kernel: Kernel, build: &Path) -> Result<()> {
        if build.join(".config").exists() {
            return Ok(());
        }
        fs::create_dir_all(build)?;
        lab::require_space(build, 6)?;
        let other = self.build_tree(Kernel {
            imp: match kernel.imp {
                Impl::Rust => Impl::C,
                Impl::C => Impl::Rust,
            },
            ..kernel
        });
        if !other.join("vmlinux").exists() {
            return Ok(());
        }
        let mounts = Mounts {
            src: &other,
            build,
            out: self.results,
        };
        let script = self.script(
            &mounts,
            "cp -a \"$src\"/. \"$build\"/ && rm -f \"$build\"/wanted.config",
        );
        self.ui.run(
            "seed",
            "Copying the build tree of the other implementation",
            &mut self.lab.sh(&mounts, &script),
        )
    }

    /// Prepends the paths to a script.
    fn script(&self, mounts: &Mounts, script: &str) -> String {
        let paths = self.lab.paths(mounts);
        format!(
            "src='{}' build='{}' out='{}'\n{script}",
            paths.src, paths.build, paths.out
        )
    }

    fn key(&self, rest: &str) -> Result<String> {
        let mut hash = Sha256::new();
        for part in [self.series, rest, &self.lab.id()?] {
            hash.update(part);
            hash.update([0]);
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    /// Builds the selftests, which are the same for all kernels. Returns their directory.
    pub fn selftests(&self, names: &[&str]) -> Result<PathBuf> {
        let out = self.results.join("selftests");
        let key = self.key(&format!("selftests {}", names.join(" ")))?;
        if fs::read_to_string(out.join("key")).is_ok_and(|have| have == key) {
            return Ok(out);
        }
        fs::create_dir_all(&out)?;
        let _ = fs::remove_file(out.join("key"));
        let build = self.cache.join("build/selftests");
        fs::create_dir_all(&build)?;
        let mounts = Mounts {
            src: self.src,
            build: &build,
            out: &out,
        };
        let targets: Vec<String> = names
            .iter()
            .map(|name| format!("/build/mm/{name}"))
            .collect();
        let targets = match self.lab {
            Lab::Root(_) => targets.join(" "),
            Lab::Host => names
                .iter()
                .map(|name| build.join("mm").join(name).display().to_string())
                .collect::<Vec<_>>()
                .join(" "),
        };
        let script = format!(
            "set -e\n\
             mkdir -p \"$build\"/mm\n\
             make -s -C \"$src\" O=\"$build\"/headers headers_install INSTALL_HDR_PATH=\"$build\"/usr\n\
             make -C \"$src\"/tools/testing/selftests/mm OUTPUT=\"$build\"/mm \
             KHDR_INCLUDES=\"-isystem $build/usr/include\" -j\"$(nproc)\" {targets}\n\
             cp {targets} \"$out\"\n"
        );
        self.ui.run(
            "selftests",
            "Building the mm selftests",
            &mut self.lab.sh(&mounts, &self.script(&mounts, &script)),
        )?;
        fs::write(out.join("key"), key).context("cannot write the key")?;
        Ok(out)
    }

    /// Builds the programs of this repository that run in guests. Returns their directory.
    pub fn programs(&self, repo: &Path) -> Result<PathBuf> {
        let out = self.results.join("programs");
        let build = self.cache.join("build/programs");
        fs::create_dir_all(&out)?;
        fs::create_dir_all(&build)?;
        self.ui.run(
            "vendor",
            "Fetching what the programs depend on",
            Command::new(env!("CARGO"))
                .args(["vendor", "--locked"])
                .arg(build.join("vendor"))
                .current_dir(repo),
        )?;
        let mounts = Mounts {
            src: repo,
            build: &build,
            out: &out,
        };
        let packages = format!("--package {}", PROGRAM_NAMES.join(" --package "));
        let script = format!(
            "packages='{packages}' programs='{}'\n{PROGRAMS}",
            PROGRAM_NAMES.join(" ")
        );
        self.ui.run(
            "programs",
            "Building the programs of the guest",
            &mut self.lab.sh(&mounts, &self.script(&mounts, &script)),
        )?;
        Ok(out)
    }
}

/// Builds the programs of this repository that run in guests, static and without a network: what
/// they depend on was fetched outside.
const PROGRAMS: &str = r#"
set -e
if [ -d /usr/lib/llvm-19/lib ]; then export LIBCLANG_PATH=/usr/lib/llvm-19/lib; fi
cd "$src"
RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --offline --locked \
	--target x86_64-unknown-linux-gnu --target-dir "$build"/target \
	--config "source.crates-io.replace-with='vendored'" \
	--config "source.vendored.directory='$build/vendor'" $packages
cd "$build"/target/x86_64-unknown-linux-gnu/release
cp $programs "$out"
"#;

/// The programs of this repository that run in guests.
const PROGRAM_NAMES: &[&str] = &["uffd-bench", "uffd-conformance", "uffd-programs"];

/// Fails where a compiler or a checker warned about a file that the series adds.
pub fn refuse_warnings(ui: &Ui, log: &str) -> Result<()> {
    let text = fs::read_to_string(ui.log_path(log))?;
    let ours = regex::Regex::new(
        r"userfaultfd_shim|userfaultfd_rust|fs/userfaultfd/|kernel/userfaultfd|built_in\.rs|kmem_cache\.rs|sysctl\.rs|anon_inode\.rs|helpers/list\.c",
    )?;
    let mut lines = text.lines().peekable();
    let mut warnings = Vec::new();
    while let Some(line) = lines.next() {
        if !line.contains("warning") {
            continue;
        }
        // The Rust tools name the place in the line that follows.
        let place = lines
            .next_if(|next| next.trim_start().starts_with("-->"))
            .unwrap_or_default();
        if ours.is_match(line) || ours.is_match(place) {
            warnings.push(format!("{line}\n{place}"));
        }
    }
    if !warnings.is_empty() {
        bail!(
            "there are warnings about files of the series:\n{}",
            warnings.join("\n")
        );
    }
    Ok(())
}
