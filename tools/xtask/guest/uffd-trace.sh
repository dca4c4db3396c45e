#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs each script of tools/uffd-trace while the snapshot program runs, and
# compares what it shows with what the program is known to do. The handler of
# the program fills the first page after a delay.
# shellcheck disable=SC2016 # The dollar signs are those of awk.
# shellcheck disable=SC2317 # check() calls these functions.
here=$(dirname "$0")
count=0 failed=0 skipped=0
# In ms. In us, it is in a bucket of histograms that begins at 1 Mi.
delay=1500

# check NAME COMMAND...: report a test. If it fails, show the output of the
# script and of the program.
check() {
	name=$1
	shift
	count=$((count + 1))
	if "$@"; then
		echo "ok $count - $name"
		return
	fi
	failed=$((failed + 1))
	sed 's/^/# /' script.out program.out
	echo "not ok $count - $name"
}

# finish: print the totals.
finish() {
	echo "1..$count"
	echo "# Totals: pass:$((count - failed - skipped)) fail:$failed xfail:0 xpass:0 skip:$skipped error:0"
	[ "$failed" = 0 ]
	exit
}

# program MS: run the program.
program() {
	uffd-programs snapshot --delay "$1" > program.out 2>&1
}

# measured NAME: what the program has counted.
measured() {
	sed -n "s/^# measure: .*: $1 = \([0-9]*\) *$/\1/p" program.out
}

# delayed NAME: the process, thread or address of the fault with the delay.
delayed() {
	sed -n "s/^# delayed: .*$1 \([0-9a-fx]*\).*/\1/p" program.out
}

# trace COMMAND [ARGUMENT...]: run uffd-trace while the program runs.
trace() {
	sh "$here/uffd-trace" "$@" -- sh "$0" program "$delay" > script.out 2>&1
}

# bpf SCRIPT [ARGUMENT...]: run a script of bpftrace while the program runs.
bpf() {
	script=$here/$1
	shift
	: > script.out
	bpftrace -o script.out -c "sh $0 program $delay" "$script" "$@" > bpftrace.out 2>&1
	cat bpftrace.out >> script.out
}

# awks PROGRAM: judge the output of the script by an awk program.
awks() {
	awk -v process="$(delayed process)" -v thread="$(delayed thread)" \
		-v address="$(delayed address)" -v delay="$delay" -v faults="$(measured faults)" \
		-v file="$(measured 'pages from the file')" -v zero="$(measured 'zero pages')" \
		-v eagain="$(measured EAGAIN)" -v eexist="$(measured EEXIST)" "$1" script.out
}

none_lost() {
	! grep -q 'lost\|Lost' script.out
}

program_is_right() {
	grep -q '^ok 1 ' program.out
}

# wait_for_program: wait for one that is in the background.
wait_for_program() {
	for _ in $(seq 600); do
		grep -q '^# Totals' program.out && return
		sleep 0.1
	done
}

# sleepers [OPTION...]: look at threads while the program delays its page.
sleepers() {
	: > program.out
	program 8000 &
	until grep -q '^# delayed' program.out; do
		sleep 0.1
	done
	sleep 1
	sh "$here/uffd-trace" sleepers > script.out 2>&1
	wait
}

# all_tracepoints: record what all of them say of the program, whose threads are
# looked at meanwhile, and of calls and events of all kinds.
all_tracepoints() {
	instance=/sys/kernel/tracing/instances/uffd-test
	mkdir "$instance"
	echo 16384 > "$instance"/buffer_size_kb
	echo 1 > "$instance"/events/userfaultfd/enable
	sleepers
	mv script.out sleepers.out
	uffd-conformance table/anon/mode=1/empty > /dev/null 2>&1
	uffd-conformance events/anon/mode=1/ > /dev/null 2>&1
	echo 0 > "$instance"/events/userfaultfd/enable
	cat "$instance"/per_cpu/cpu*/stats "$instance"/trace > script.out
	rmdir "$instance"
}

# Helpers of this script call it again.
case $1 in
program)
	program "$2"
	exit
	;;
program-in-background)
	: > program.out
	program "$2" &
	until grep -q '^# delayed' program.out; do
		sleep 0.1
	done
	sleep 1
	exit
	;;
esac

cd "$(mktemp -d)" || exit 1
echo "TAP version 13"

sleepers
check "sleepers: the thread, and for how long" awks '
	$2 == process && $3 == thread && ($1 == "?" || $1 >= 900 && $1 < 60000) { found = 1 }
	END { exit !found }'

if ! dmesg | grep -q 'userfaultfd: implemented in Rust'; then
	: > program.out
	sh "$here/uffd-trace" rate > script.out 2>&1
	code=$?
	says_so() {
		[ "$code" != 0 ] && [ "$(wc -l < script.out)" = 1 ] &&
			grep -q 'no tracepoints of userfaultfd' script.out
	}
	check "rate: says what is missing" says_so
	count=$((count + 1)) skipped=$((skipped + 1))
	echo "ok $count - the others # SKIP the C implementation has no tracepoints"
	finish
fi

check "sleepers: the counters of its descriptor" awks '
	$2 ~ /^[0-9]+$/ && $1 == process && NF == 13 && $4 == 1 && $5 == 1 && $8 == 1 &&
		$13 >= 900 { found = 1 }
	END { exit !found }'

sh "$here/uffd-trace" sleepers -- sh "$0" program-in-background 8000 > script.out 2>&1
wait_for_program
check "sleepers: the address" awks '
	$2 == process && $3 == thread && $5 == address && $6 == "missing" { found = 1 }
	END { exit !found }'

trace latency
check "latency: the program" program_is_right
check "latency: no event is lost" none_lost
# Its header is: process N (NAME), OPERATION: COUNT faults, mean N us, longest N us
check "latency: the delay" awks '
	$2 == process && /, copy: / { longest = $(NF - 1) }
	END { exit !(longest >= delay * 1000 && longest < delay * 10000) }'
check "latency: all faults" awks '
	/^process/ && $2 == process && match($0, /: [0-9]+ fault/) {
		all += substr($0, RSTART + 2, RLENGTH)
	}
	END { exit !(all >= faults && faults > 0) }'
check "latency: each operation that woke a thread is known" awks '
	/, unknown: / { bad = 1 }
	END { exit bad }'

trace slowest --top 3
check "slowest: no event is lost" none_lost
check "slowest: the fault with the delay is the first" awks '
	NR == 2 && $1 >= delay * 1000 && $2 < delay * 500 && $3 == address && $4 == "missing" &&
		$5 == thread && $(NF - 1) == process && $NF == "copy" { found = 1 }
	END { exit !found }'

trace rate
check "rate: no event is lost" none_lost
check "rate: all faults, of one kind" awks '
	$1 == "total" && $2 >= faults && $2 == $3 && $5 == 0 && $7 == 0 { found = faults > 0 }
	END { exit !found }'

trace errors
check "errors: no event is lost" none_lost
# The name may have spaces in it.
check "errors: the calls of the handler" awks '
	$(NF - 6) == "copy" || $(NF - 6) == "zeropage" {
		# The last call may find that the owner has ended.
		calls += $(NF - 5) - $(NF - 2)
		ours += $1 == process
	}
	$(NF - 6) == "wake" { wakes += $(NF - 5) }
	END { exit !(calls == file + zero + eagain + eexist && wakes == eexist && !ours) }'
check "errors: EEXIST and EAGAIN" awks '
	$1 ~ /^[0-9]+$/ { exists += $(NF - 4); again += $(NF - 3); rest += $(NF - 1) + $NF }
	END { exit !(exists == eexist && again == eagain && rest == 0) }'

bpf latency.bt
check "latency.bt: the program" program_is_right
check "latency.bt: no event is lost" none_lost
# Buckets are lines such as: [1M, 2M)  1 |@@@|
# The next one is for a machine that is slow.
check "latency.bt: the delay" awks '
	/^@us/ { ours = index($0, "@us[" process ", copy]") }
	ours && /^\[(1M, 2M|2M, 4M)\)/ { found = 1 }
	END { exit !found }'
check "latency.bt: all faults" awks '
	/^@us/ { ours = index($0, "@us[" process ",") }
	ours && sub(/ *\|.*/, "") { all += $NF }
	END { exit !(all >= faults && faults > 0) }'

bpf slowest.bt 1000000
check "slowest.bt: the fault with the delay" awks '
	$1 >= delay * 1000 && $3 == address && $4 == "missing" && $5 == thread &&
		$(NF - 1) == process && $NF == "resolved" { found = 1 }
	END { exit !found }'

bpf sleepers.bt
check "sleepers.bt: the thread, the address, and for how long" awks '
	$1 >= 100 && $1 <= delay * 2 && $2 == process && $3 == thread && $5 == address { found = 1 }
	END { exit !found }'

bpf rate.bt
check "rate.bt: all faults, of one kind" awks '
	/^@total\[missing(\|write)?\]/ { all += $NF }
	/^@total\[(wp|minor)/ { bad = 1 }
	END { exit !(all >= faults && faults > 0 && !bad) }'

bpf errors.bt
check "errors.bt: the calls of the handler" awks '
	/^@calls.*, (copy|zeropage)\]/ { calls += $NF }
	/^@errors.*, ENOENT\]/ { calls -= $NF }
	END { exit !(calls == file + zero + eagain + eexist) }'
check "errors.bt: EEXIST and EAGAIN" awks '
	/^@errors/ && /EEXIST\]/ { exists += $NF; next }
	/^@errors/ && /EAGAIN\]/ { again += $NF; next }
	/^@errors/ && !/ENOENT\]/ { bad = 1 }
	END { exit !(exists == eexist && again == eagain && !bad) }'

all_tracepoints
check "tracepoints: no event is lost" awks '
	/^(overrun|dropped events): / && $NF != 0 { bad = 1 }
	END { exit bad || NR < 1000 }'
check "tracepoints: each descriptor is created and released" awks '
	/ userfaultfd_create: / { created++ }
	/ userfaultfd_release: / { released++ }
	END { exit !(created > 100 && created == released) }'
check "tracepoints: registrations and their ends" awks '
	/ userfaultfd_register: .* mode=missing ret=0$/ { registered++ }
	/ userfaultfd_unregister: .* ret=0$/ { unregistered++ }
	END { exit !(registered > 100 && unregistered > 0) }'
check "tracepoints: events of each kind, and their ends" awks '
	/ userfaultfd_event: / { match($0, /event=[a-z]+/); begun[substr($0, RSTART, RLENGTH)]++ }
	/ userfaultfd_event_end: / { match($0, /event=[a-z]+/); ended[substr($0, RSTART, RLENGTH)]++ }
	END {
		for (kind in begun) {
			kinds++
			bad += begun[kind] != ended[kind]
		}
		exit bad || kinds != 4
	}'
mv sleepers.out script.out
check "tracepoints: the counters meanwhile" awks '
	$2 ~ /^[0-9]+$/ && $1 == process && NF == 13 && $13 >= 900 { found = 1 }
	END { exit !found }'

finish
