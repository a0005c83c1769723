#!/usr/bin/env bash
# Sets up the environment, then runs every step from the images to a checked submission.
#   bash run.sh                        the demo, whose images are drawn here
#   bash run.sh COMPETITION DATA_DIR   another competition's files
#   bash run.sh tests                  every test
#   EXPERIMENTS="lite0_128 cnn_e" bash run.sh nih3 path/to/nih   instead of the competition's own experiments
# Steps that are finished are skipped. A training that was interrupted continues after its last complete epoch.
set -euo pipefail
data_dir=
if [ "${1:-}" != tests ] && [ -n "${2:-}" ]; then data_dir=$(cd "$2" && pwd); fi  # relative to where this script is called
cd "$(dirname "$0")"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 NO_ALBUMENTATIONS_UPDATE=1

# Set-up in the active environment, or in .venv. Requirements are installed only if requirements.txt has changed.
environment=${VIRTUAL_ENV:-${CONDA_PREFIX:-.venv}}
python="$environment/bin/python"
"$([ -x "$python" ] && echo "$python" || echo "${PYTHON:-python3}")" -c 'import sys
if not (3, 10) <= sys.version_info < (3, 14):
    sys.exit("Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + "; name another: PYTHON=python3.12 bash run.sh")'
if ! "$python" -m pip --version > /dev/null 2>&1; then  # there is none, or making it was interrupted
  [ "$environment" = .venv ] || { echo "the active environment $environment has no pip; deactivate it or install pip there"; exit 1; }
  echo "making .venv"
  "${PYTHON:-python3}" -m venv --clear .venv
fi
stamp="$environment/.installed-requirements.txt"
if ! cmp -s requirements.txt "$stamp"; then
  echo "installing requirements.txt"
  "$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
  cp requirements.txt "$stamp"
fi

if [ "${1:-}" = tests ]; then
  exec "$python" -m pytest -n 2 --dist worksteal "${@:2}"
fi

competition=${1:-demo}
where=(--competition "$competition")
if [ -n "$data_dir" ]; then where+=(--data-dir "$data_dir"); fi
chosen=("${where[@]}" ${EXPERIMENTS:+--experiment $EXPERIMENTS})  # without EXPERIMENTS the competition's own list

step() { printf '\n== %s\n' "$*"; }
if [ "$competition" = demo ]; then
  step "1 draw the demo's images"
  "$python" src/make_demo.py ${data_dir:+--data-dir "$data_dir"}
fi
step "2 check images and labels"
audit="${STARTER_HOME:-.}/runs/$competition/audit/audit.json"
if [ -f "$audit" ]; then echo "$audit exists: skipped"; else "$python" src/audit.py "${where[@]}" --quick; fi
step "3 split into folds; a patient is never in two"
"$python" src/make_folds.py "${where[@]}"
step "4 train every fold of the experiments"
"$python" src/train.py "${chosen[@]}"
step "5 predict the test images with all folds' models"
"$python" src/predict.py "${chosen[@]}"
step "6 blend the two best runs"
"$python" src/blend.py "${chosen[@]}"
step "7 draw heat maps"
"$python" src/explain.py "${chosen[@]}"
step "8 compare the runs"
"$python" src/leaderboard.py "${where[@]}"
step "9 write the report"
"$python" src/report.py "${where[@]}"
if [ "$environment" = .venv ]; then printf '\nTo run a step by itself:  source .venv/bin/activate\n'; fi
