#!/usr/bin/env bash
# Run the tests with the exact constraints, the newest releases and the lower bounds, on each Python that is found.
# make test-matrix; for a part of it: PYTHONS=python3.12 VERSIONS="constraints lowest" make test-matrix
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p .venv-matrix
sed 's/#.*//; s/>=/==/' requirements.txt >.venv-matrix/lowest.txt

summary=""
for python in ${PYTHONS:-python3.11 python3.12 python3.13}; do
  "$python" --version >/dev/null 2>&1 || { summary+="$python: not found"$'\n'; continue; }
  for versions in ${VERSIONS:-constraints newest lowest}; do
    venv=.venv-matrix/${python##*/}-$versions
    case $versions in
      constraints) pins=(-c constraints.txt) ;;
      newest) pins=(--upgrade --upgrade-strategy eager) ;;
      lowest) pins=(-r .venv-matrix/lowest.txt) ;;
    esac
    "$python" -m venv "$venv" &&
      "$venv/bin/pip" install --quiet --disable-pip-version-check "${pins[@]}" -r requirements.txt -r requirements-dev.txt &&
      "$venv/bin/pytest" -q &&
      S8_MODE=smoke "$venv/bin/pytest" -q --nbval-lax S8_ResNet18_LayerNorm.ipynb
    summary+="$python, $versions: $([[ $? == 0 ]] && echo passed || echo FAILED)"$'\n'
  done
done
printf '\n%s' "$summary"
[[ $summary != *FAILED* ]]
