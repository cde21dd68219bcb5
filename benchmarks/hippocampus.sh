#!/usr/bin/env bash
# The main job on the 200 real hippocampus cases: prepare, train, evaluate on the test split; prints wall times and Dice.
# Usage: benchmarks/hippocampus.sh DATASET OUTPUT    (DATASET holds images/ and labels/)
set -euo pipefail
dataset=$1 output=$2
settings=$(dirname "$0")/../scripts/settings_for_hippocampus/seg_train
time monaiseg prepare --dataset-path "$dataset" --output-root-path "$output" --data-task-name hippocampus --seed 0
time monaiseg train -ts "$settings" -o "$output" -dtn hippocampus -tn first
time monaiseg evaluate -m "$output/hippocampus/first" -o "$output" -dtn hippocampus
