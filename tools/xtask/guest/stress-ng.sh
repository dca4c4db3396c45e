#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs stress-ng, which ends with success as well if it did nothing.
stress-ng --userfaultfd 2 --userfaultfd-ops 20000 --userfaultfd-bytes 32M --verify --metrics \
	> stress.log 2>&1
code=$?
cat stress.log
grep -q "passed: 2: userfaultfd" stress.log && exit $code
exit 1
