"""What is running, how long it takes, what it cost, and what went wrong."""

import datetime
from typing import Any

import pandas as pd
import streamlit as st

from engine import job_frames, jobs
from engine.settings import home
from pages import shared

ICONS = {
    "queued": "hourglass_empty",
    "running": "progress_activity",
    "done": "check_circle",
    "failed": "error",
    "cancelled": "block",
}
COLORS: dict[str, Any] = {"queued": "gray", "running": "blue", "done": "green", "failed": "red", "cancelled": "gray"}
WHERE = {
    "import": "Datasets",
    "label": "Values",
    "score": "Reward models",
    "rewrite": "Robustness",
    "train": "Classifiers",
}

RUNNING = ("nodes", "workers", "failed", "busy")  # of progress.json, as it is called there

st.title("Jobs")
st.caption("Jobs go on when this page is closed, and after the server restarts. Finished parts are kept in any case.")
shared.store()


def seconds_text(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show(job: jobs.Job) -> None:
    """One job: progress, rate, ETA, log, and what can be done."""
    state, progress = jobs.read_state(job), jobs.progress(job)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(state.state, icon=f":material/{ICONS[state.state]}:", color=COLORS[state.state])
            st.markdown(f"**{shared.escape(job.title)}**")
            where = "" if jobs.place(job) == jobs.HERE else f" · on {shared.escape(jobs.place(job))}"
            st.caption(f"{job.id} · {datetime.datetime.fromtimestamp(job.created):%Y-%m-%d %H:%M}{where}")
        if state.state == "running":
            if progress.total:
                st.progress(min(1.0, progress.done / progress.total))
            words = [
                f"{progress.done:,} of {progress.total:,} entries"
                if job.kind != "import"
                else f"{progress.done:,} rows"
            ]
            if progress.rate:
                words.append(f"{progress.rate:,.1f} a second")
            if progress.eta_s is not None:
                words.append(f"about {seconds_text(progress.eta_s)} left")
            details = progress.details
            words += [f"{details[name]:,} {name}" for name in RUNNING if details.get(name)]
            if details.get("spent_usd"):
                words.append(f"${details['spent_usd']:,.4f} spent")
            st.caption(" · ".join(words) if progress.done else "Starting …")
        if state.state == "failed":
            st.error(shared.escape(state.error))
        if state.state in jobs.ENDED and state.started:
            words = [f"took {seconds_text(state.finished - state.started)}"]
            words += [f"{value:,} {name}" for name, value in (state.counts or {}).items() if isinstance(value, int)]
            spent = (state.counts or {}).get("spent_usd")
            words += [f"${spent:,.4f} spent"] if spent is not None and job.params.get("lane") == "network" else []
            st.caption(shared.escape(" · ".join(words)))
        with st.container(horizontal=True):
            if state.state in ("queued", "running") and st.button(
                "Cancel", key=f"cancel-{job.id}", icon=":material/stop:"
            ):
                shared.ask("cancel", job=job.id)
            if state.state in ("failed", "cancelled") and st.button(
                "Resume", key=f"resume-{job.id}", type="primary", icon=":material/play_arrow:"
            ):
                shared.ask("resume", job=job.id)
                st.rerun(scope="fragment")
            if state.state in jobs.ENDED and st.button("Forget", key=f"remove-{job.id}", icon=":material/delete:"):
                shared.ask("remove", job=job.id)
                st.rerun(scope="fragment")
            if state.state == "done" and job.kind in WHERE:
                made = {"view": "Evaluate", "classifier": job.params.get("name", "")}
                st.page_link(
                    shared.page_path(WHERE[job.kind]),
                    label=f"See {WHERE[job.kind]}",
                    icon=":material/arrow_forward:",
                    query_params=made if job.kind == "train" else {"dataset": job.dataset},
                )
        log = job.path("log.txt")
        if log.exists() and log.stat().st_size:
            with st.expander("Log"):
                st.code(log.read_text(encoding="utf-8", errors="replace")[-4000:], language=None)


@st.fragment(run_every=1.0)
def live() -> None:
    """The list, redrawn every second while anything runs."""
    every = jobs.all_jobs(home())[::-1]
    if not every:
        st.info("No job has run yet. Import, label or score a dataset on Datasets.")
    wanted = st.query_params.get("job")
    for job in sorted(every, key=lambda j: j.id != wanted)[:30]:
        show(job)
    if len(every) > 30:
        st.caption(f"30 shown of {len(every)}.")


live()
past = shared.read(job_frames.runs)
if not past.empty:
    st.subheader("Runs", anchor=False)
    st.caption("Everything needed to repeat a run: parameters, versions, device, counts.")
    st.dataframe(pd.DataFrame(past), hide_index=True, alt="Past runs with parameters and environment")
