#!/usr/bin/env bash
# All three experiments and a page of all tables, resumable: what is finished below results/ is not done again.
#   ./run_all_experiments.sh             1½ to 3 hours on 2 cores; then results/results.md
#   ./run_all_experiments.sh --quick     minutes; then results/quick/results.md
# Other flags go to every `sst-merge experiment`, such as --workers 4 or --out FOLDER.
set -euo pipefail
cd "$(dirname "$0")"
# One thread a process: more of them on matrices this small cost time, and the order of additions would change.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# glibc gives freed tensors back to the system and asks for them again, which takes long on a virtual machine. Both
# variables are needed: either alone stops glibc from raising its own limit.
export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=8589934592
command="sst-merge"
[ -x .venv/bin/sst-merge ] && command=".venv/bin/sst-merge"
out=results
quick=""
previous=""
for word in "$@"; do
  [ "$word" = "--quick" ] && quick="/quick"
  [ "$previous" = "--out" ] && out="$word"
  previous="$word"
done
"$command" experiment all "$@"
"$command" experiment page "$@" > "$out$quick/.results.md.part"
mv "$out$quick/.results.md.part" "$out$quick/results.md"
echo "$out$quick/results.md"
