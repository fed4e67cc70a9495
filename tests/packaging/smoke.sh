#!/usr/bin/env bash
# An installed fedloge, as a stranger meets it: smoke.sh PYTHON, of an environment that has the wheel.
# It runs in a folder that has packages `clients`, `server` and `experiments` of its own.
set -euo pipefail
python=$(readlink -f "$(dirname "$1")")/$(basename "$1")
fedloge=$(dirname "$python")/fedloge
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export FEDLOGE_CACHE=$folder/cache OMP_NUM_THREADS=1
fail() {
  echo "smoke: $*" >&2
  exit 1
}

for name in clients server experiments; do
  mkdir "$name"
  echo "raise ImportError('fedloge imported the $name of the folder it runs in')" >"$name/__init__.py"
done

# With the folder on the path first, as `PYTHONPATH=.` and `python -m` put it.
export PYTHONPATH=.
"$fedloge" --help >help.txt
grep -q "Train a federation" help.txt || fail "--help says nothing of 'run'"
"$python" -m fedloge --help >/dev/null
"$fedloge" doctor
where=$("$python" -c 'import fedloge; print(fedloge.__file__)')
[[ $where == *site-packages* ]] || fail "fedloge is not the installed one but $where"

version=$("$python" -m fedloge --version)
grep -q "$("$python" -c 'import fedloge; print(fedloge.__version__)')" <<<"$version" || fail "--version says $version"

tiny=(--set rounds=1 --set local-epochs=1 --set num-clients=4 --set clients-per-round=2)
"$fedloge" run "${tiny[@]}" --name first >run.txt 2>run.log || fail "run: $(cat run.log)"
[[ -s runs/first/report.html && $(wc -l <runs/first/metrics.jsonl) == 1 ]] || fail "no record in runs/first"

# A recipe by its name, whose images are not where they are said to be: one line and exit code 2.
code=0
"$fedloge" run cifar10-lt --set rounds=1 --set dataset=image-folder --set data-path=nowhere >lost.txt 2>lost.log || code=$?
[[ $code == 2 && $(wc -l <lost.log) == 1 ]] || fail "cifar10-lt ended with $code: $(cat lost.log)"
grep -q "nowhere" lost.log || fail "cifar10-lt was not found by name: $(cat lost.log)"
echo "smoke: passed"
