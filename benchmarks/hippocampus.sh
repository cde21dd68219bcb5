#!/usr/bin/env bash
# The main job on the 200 real hippocampus cases, planned for so many minutes; prints wall times and Dice of the test split.
# Usage: benchmarks/hippocampus.sh DATASET OUTPUT [MINUTES]    (DATASET holds images/ and labels/)
set -euo pipefail
dataset=$1 output=$2 minutes=${3:-8}
labels=$(dirname "$0")/hippocampus.csv
time monaiseg prepare --dataset-path "$dataset" --output-root-path "$output" --data-task-name hippocampus --seed 0 --label-table "$labels"
time monaiseg plan --output-root-path "$output" --data-task-name hippocampus --minutes "$minutes" -o "$output/settings.json"
time monaiseg train -ts "$output/settings.json" -o "$output" -dtn hippocampus -tn first
time monaiseg evaluate -m "$output/hippocampus/first" -o "$output" -dtn hippocampus
