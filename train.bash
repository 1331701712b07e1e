#!/usr/bin/env bash
# Runs a sweep to its end: starts tune.py, starts it again when it crashes, and keeps <experiment_dir>/status.json.
#
#   ./train.bash <experiment_dir> [flags of tune.py]
#
# Exit codes: 0 completed; 2 a mistake in the command, or a full disk; 3 no trial succeeded; 129, 130, 143 stopped by HUP, INT, TERM;
# otherwise that of the last crash, after five in a row without a new record on disk.
# Environment: PYTHON (used where no .venv lies beside this file); in seconds, BPFREE_RESTART_PAUSE before a restart,
# BPFREE_STOP_GRACE before a signal is followed by kill -9, and BPFREE_STALL: a tune.py that records nothing for so long,
# which should be longer than loading, compiling and several epochs, is taken to hang and killed; if unset, never.
set -u

max_crashes=5
pause=${BPFREE_RESTART_PAUSE:-1}
grace=${BPFREE_STOP_GRACE:-30}
stall=${BPFREE_STALL:-0}

say() { printf 'train.bash: %s\n' "$1" >&2; }

refuse() {
  say "$1"
  exit 2
}

# status STATE [EXIT_CODE]: replaces status.json. A Ctrl-C meant for the sweep must not cut this short.
status() (
  trap '' INT TERM HUP
  exec "$python" -I -S -c '
import json, os, sys

path, state, exit_code, crashes, started, updated, pid, *flags = sys.argv[1:]
status = {"state": state, "flags": flags, "host": os.uname().nodename, "pid": int(pid), "started": started,
          "updated": updated, "crashes": int(crashes), "exit_code": int(exit_code) if exit_code else None}
try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.{pid}.tmp", "w") as file:
        file.write(json.dumps(status, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)
except OSError as error:
    sys.exit(f"train.bash: cannot write the status: {error}")
' "$status_file" "$1" "${2-}" "$crashes" "$started" "$(now)" $$ ${flags[@]+"${flags[@]}"}
)

now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

end() {
  leave_off
  status "$1" "$2"
  exit "$2"
}

# A refused command leaves nothing behind: neither new directories nor another status of an earlier sweep.
end_as_found() {
  if [[ -n $earlier_status ]]; then
    printf '%s\n' "$earlier_status" >"$status_file.$$.tmp" && mv -f -- "$status_file.$$.tmp" "$status_file"
  elif ((${#created[@]})); then
    rm -f -- "$status_file"
    rmdir -- "${created[@]}" 2>/dev/null
  else
    status failed 2
  fi
  exit 2
}

# tune FLAGS…: in the background, as bash answers a signal during `wait` but not during a foreground command.
# Bash may make a background command ignore Ctrl-C; `trap -` undoes that.
tune() {
  (
    trap - INT QUIT
    exec "$python" "$here/tune.py" "--experiment_dir=$experiment_dir" "$@"
  ) &
  child=$!
  if ((stall)); then
    watch &
    watcher=$!
  fi
  { wait "$child"; } 2>/dev/null # bash would report a killed tune.py by quoting this function
}

leave_off() { [[ -z $watcher ]] || { kill "$watcher" && wait "$watcher"; } 2>/dev/null; }

# Kills tune.py when it has recorded nothing for so long.
watch() {
  local since=$SECONDS records last=-1 sleeper=
  trap 'kill $sleeper 2>/dev/null && wait; exit' TERM
  while kill -0 "$child" 2>/dev/null; do
    sleep "$(((stall + 3) / 4))" &
    sleeper=$!
    wait "$sleeper"
    records=$(count_records)
    if ((records != last)); then
      last=$records
      since=$SECONDS
    elif ((SECONDS - since >= stall)); then
      say "tune.py has recorded nothing for $((SECONDS - since)) s: killing it"
      kill -s KILL "$child"
      return
    fi
  done
}

gone_within() {
  local until=$((SECONDS + $1 + 1)) # whole seconds: the first may be nearly over
  while kill -0 "$child" 2>/dev/null; do
    ((SECONDS < until)) || return 1
    sleep 0.1
  done
}

# stop SIGNAL EXIT_CODE: the answer to a signal. A Ctrl-C at the terminal has reached tune.py as well: it gets time to
# act on that one, since a second would cut short what it does about the first.
stop() {
  trap '' INT TERM HUP
  if [[ -n $child ]]; then
    { [[ $1 == INT ]] && gone_within 2; } || kill -s "$1" "$child" 2>/dev/null
    gone_within "$grace" || kill -s KILL "$child" 2>/dev/null
  fi
  end interrupted "$2"
}

# What the sweep has on record: epochs, finished executions, finished trials.
count_records() {
  {
    find -H "$experiment_dir" -maxdepth 5 -path '*/trials/*/execution-*/history.csv' -exec cat {} +
    find -H "$experiment_dir" -maxdepth 5 -path '*/trials/*/execution-*/result.json'
    find -H "$experiment_dir" -maxdepth 4 -path '*/trials/*/trial.json' \
      -exec grep -lE '"state": *"(completed|failed)"' {} +
  } 2>/dev/null | wc -l
}

# Sets restart_flags, those of a start that wipes nothing, not even from a flag file.
drop_reset() {
  local flag last=()
  restart_flags=()
  for flag in "$@"; do
    case $flag in
      -reset_training | --reset_training | -reset_training=* | --reset_training=*) ;;
      -flagfile* | --flagfile*) restart_flags+=("$flag") last=(--noreset_training) ;;
      *) restart_flags+=("$flag") ;;
    esac
  done
  restart_flags+=(${last[@]+"${last[@]}"})
}

experiments() { cksum "$experiment_dir"/*/experiment.json 2>/dev/null; }

# Whether the last start has begun a sweep: it writes an experiment.json, which has its time in it, when all that was to be
# wiped is gone, and before any record.
has_begun() { experiments | grep -qvxF -e "$experiments_before"; }

# Sets created: the directories that had to be made, deepest first.
make_directory() {
  local missing=$1
  created=()
  while [[ ! -e $missing ]]; do
    created+=("$missing")
    missing=$(dirname -- "$missing")
  done
  mkdir -p -- "$1" 2>/dev/null
  [[ -d $1 && -w $1 ]] || refuse "cannot write to the experiment directory '$1'; name another one"
}

usage='usage: ./train.bash <experiment_dir> [flags of tune.py]'
case ${1-} in
  -h | -help | --help) # which writes nothing, whatever the directory
    printf '%s\n\n' "$usage"
    set -- . "$1"
    ;;
  '') refuse "no experiment directory given; $usage" ;;
  -*) refuse "the experiment directory comes first, before '$1'; $usage" ;;
esac
experiment_dir=$1
shift
flags=("$@")

here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
python=$here/.venv/bin/python
[[ -x $python ]] || python=${PYTHON:-python3}
[[ $stall =~ ^[0-9]+$ ]] || refuse "BPFREE_STALL is a whole number of seconds, received '$stall'"
command -v "$python" >/dev/null || refuse "no Python found as '$python'; run 'make install' or set PYTHON"
export PYTHONUNBUFFERED=1

answers=
for flag in "$@"; do
  case $flag in
    -experiment_dir | --experiment_dir | -experiment_dir=* | --experiment_dir=*)
      refuse "the experiment directory is '$experiment_dir', the first argument: leave '$flag' out"
      ;;
    -h | -help | --help) answers=help ;;
    -dry_run | --dry_run | -dry_run=[tT1]* | --dry_run=[tT1]*) answers=${answers:-plan} ;;
    -nodry_run | --nodry_run | -dry_run=* | --dry_run=*) answers=${answers#plan} ;;
  esac
done
# What is only an answer writes nothing, and needs nobody to start it again.
[[ -z $answers ]] || exec "$python" "$here/tune.py" "--experiment_dir=$experiment_dir" "$@"

make_directory "$experiment_dir"
status_file=$experiment_dir/status.json
earlier_status=$(cat -- "$status_file" 2>/dev/null)
started=$(now)
crashes=0
fruitless=0
most_records=-1
records_before=$(count_records)
child=
watcher=

trap 'stop HUP 129' HUP
trap 'stop INT 130' INT
trap 'stop TERM 143' TERM

drop_reset ${flags[@]+"${flags[@]}"}
next_flags=(${flags[@]+"${flags[@]}"})
while :; do
  status running
  experiments_before=$(experiments)
  tune ${next_flags[@]+"${next_flags[@]}"}
  code=$?
  leave_off
  case $code in
    0) end completed 0 ;;
    # A full disk, hours later, is no refused command.
    2)
      if ((crashes)) || has_begun || (($(count_records) != records_before)); then end failed 2; fi
      end_as_found
      ;;
    3) end failed 3 ;;
    129 | 130 | 143) end interrupted "$code" ;;
  esac

  crashes=$((crashes + 1))
  # A crash before that has left the reset to the next start; one after it would wipe what is new. What was wiped then is
  # no measure of progress.
  if has_begun; then
    next_flags=(${restart_flags[@]+"${restart_flags[@]}"})
    most_records=-1
  fi
  records=$(count_records)
  if ((records > most_records)); then
    most_records=$records
    fruitless=0
  fi
  fruitless=$((fruitless + 1))
  if ((fruitless == max_crashes)); then
    say "giving up: $max_crashes crashes in a row without a new record, the last with exit code $code"
    end failed "$code"
  fi
  say "tune.py crashed with exit code $code; starting it again in $pause s"
  status crashed "$code"
  sleep "$pause"
done
