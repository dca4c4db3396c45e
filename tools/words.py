#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Counts words that the kernel's prose uses, and words that it avoids.

What is counted are the comments of the kernel code, its documents, and the
messages of the patches. The counts are per 1,000 words. The exit status is
1 if a count is out of bounds.
"""

import re
import subprocess
import sys

ROOMS = ["rust", "fs", "mm", "include", "Documentation", "tools/testing", "linux-patches"]

# A name, what is counted, the least and the most.
COUNTS = [
    ("whoever, somebody, ...", r"\b(who|some|no|every|any)(ever|body)\b", 0, 0.3),
    ("where", r"\bwhere\b", 0, 1.5),
    ("because, since, so that", r"\b(because|since|so that)\b", 3, 1000),
    ("area", r"\bareas?\b", 0, 0.1),
]


def prose(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if path.endswith(".patch"):
        # The message is between the header and the first line of the diffstat.
        return text.partition("\n---\n")[0].partition("\n\n")[2]
    if path.endswith((".rst", ".md", ".txt", ".litmus")):
        return text
    if path.endswith(".rs"):
        return "\n".join(re.findall(r'(?<![:"])//[/!]?(.*)', text))
    return "\n".join(re.findall(r"/\*.*?\*/|//[^\n]*", text, re.S))


def main():
    files = subprocess.check_output(["git", "ls-files", *ROOMS], text=True).split()
    text = "\n".join(prose(path) for path in files)
    words = len(re.findall(r"[A-Za-z']+", text))
    print(f"{words} words in {len(files)} files, per 1,000 words:")
    good = True
    for name, pattern, least, most in COUNTS:
        count = 1000 * len(re.findall(pattern, text, re.I)) / words
        is_good = least <= count <= most
        good = good and is_good
        print(f"  {name:25} {count:5.2f}  {'ok' if is_good else f'not in {least}..{most}'}")
    sys.exit(not good)


main()
