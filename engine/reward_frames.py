"""What the reward models page shows, aggregated in SQL: nothing here grows with the number of pairs.

Every function takes a connection, a dataset id and model ids, and returns small frames. A pair counts for a model when
both its sides have a reward. Aligned: reward(chosen) > reward(rejected); equal rewards are ties and are never hidden.
"""

from __future__ import annotations

import duckdb
import pandas as pd

BINS = 60


def _margins(dataset_id: int, model_id: int) -> str:
    """SQL of (pair_no, subset, c, r, m) for one model."""
    return f"""(
        SELECT p.pair_no, p.subset, p.chosen, p.rejected, c.reward AS c, r.reward AS r, c.reward - r.reward AS m
        FROM pairs p JOIN rewards c ON c.entry_id = p.chosen AND c.model_id = {int(model_id)}
        JOIN rewards r ON r.entry_id = p.rejected AND r.model_id = {int(model_id)}
        WHERE p.dataset_id = {int(dataset_id)})"""


def alignment(con: duckdb.DuckDBPyConnection, dataset_id: int, model_id: int) -> pd.DataFrame:
    """Counts by subset and over all (subset NULL): subset, n, aligned, ties, mean_margin, sd_margin."""
    return con.execute(f"""
        SELECT subset, count(*) AS n, count_if(m > 0) AS aligned, count_if(m = 0) AS ties,
            avg(m) AS mean_margin, stddev_samp(m) AS sd_margin
        FROM {_margins(dataset_id, model_id)} GROUP BY GROUPING SETS ((), (subset)) ORDER BY subset NULLS FIRST
    """).df()


def length_baseline(con: duckdb.DuckDBPyConnection, dataset_id: int) -> pd.DataFrame:
    """By subset and over all: n, longer (the chosen response has more characters), shorter, same."""
    return con.execute(
        """
        SELECT subset, count(*) AS n, count_if(c.n_chars > r.n_chars) AS longer,
            count_if(c.n_chars < r.n_chars) AS shorter, count_if(c.n_chars = r.n_chars) AS same
        FROM pairs p JOIN entries c ON c.entry_id = p.chosen JOIN entries r ON r.entry_id = p.rejected
        WHERE dataset_id = ? GROUP BY GROUPING SETS ((), (subset)) ORDER BY subset NULLS FIRST
        """,
        [dataset_id],
    ).df()


def two_models(con: duckdb.DuckDBPyConnection, dataset_id: int, a: int, b: int) -> dict[str, float]:
    """Both models on the pairs both have scored: n, both, only_a, only_b, neither (aligned), same_sign, spearman.

    `spearman` is the rank correlation of the two margins (ties get their mean rank).
    """
    row = con.execute(f"""
        WITH both_scored AS (
            SELECT x.m AS ma, y.m AS mb FROM {_margins(dataset_id, a)} x
            JOIN {_margins(dataset_id, b)} y USING (pair_no)),
        ranked AS (
            SELECT ma, mb,
                rank() OVER (ORDER BY ma) + (count(*) OVER (PARTITION BY ma) - 1) / 2.0 AS ra,
                rank() OVER (ORDER BY mb) + (count(*) OVER (PARTITION BY mb) - 1) / 2.0 AS rb FROM both_scored)
        SELECT count(*), count_if(ma > 0 AND mb > 0), count_if(ma > 0 AND NOT mb > 0), count_if(mb > 0 AND NOT ma > 0),
            count_if(NOT ma > 0 AND NOT mb > 0), count_if(sign(ma) = sign(mb)),
            CASE WHEN count(DISTINCT ra) > 1 AND count(DISTINCT rb) > 1 THEN corr(ra, rb) END
        FROM ranked""").fetchone()
    names = ("n", "both", "only_a", "only_b", "neither", "same_sign", "spearman")
    return {name: float("nan") if value is None else value for name, value in zip(names, row or ())}


def calibration(con: duckdb.DuckDBPyConnection, dataset_id: int, model_id: int, bins: int = 10) -> pd.DataFrame:
    """Equal-count bins of |margin|: bin, n, agree, predicted (mean sigma of |margin|), low_margin, high_margin.

    A Bradley-Terry model that is calibrated agrees with people in a share of `predicted`. Ties are left out.
    """
    return con.execute(f"""
        WITH cut AS (
            SELECT m, abs(m) AS a, ntile({int(bins)}) OVER (ORDER BY abs(m), pair_no) AS bin
            FROM {_margins(dataset_id, model_id)} WHERE m <> 0)
        SELECT bin, count(*) AS n, count_if(m > 0) AS agree, avg(1 / (1 + exp(-a))) AS predicted,
            min(a) AS low_margin, max(a) AS high_margin
        FROM cut GROUP BY bin ORDER BY bin""").df()


def _edges(low: str, width: str) -> str:
    return f"{low} + bin * {width} AS x, {low} + (bin + 1) * {width} AS x2"


def histogram(con: duckdb.DuckDBPyConnection, dataset_id: int, model_id: int, bins: int = 40) -> pd.DataFrame:
    """Rewards by side and margins, binned between the 0.5% and 99.5% quantiles (the rest in the end bins).

    Columns: what (reward or margin), side (chosen, rejected, neutral), x, x2, n, share (of the side).
    """
    return con.execute(f"""
        WITH m AS (SELECT * FROM {_margins(dataset_id, model_id)}),
        long AS (
            SELECT 'reward' AS what, 'chosen' AS side, c AS v FROM m UNION ALL SELECT 'reward', 'rejected', r FROM m
            UNION ALL SELECT 'margin', 'neutral', m FROM m),
        span AS (
            SELECT what, quantile_cont(v, 0.005) AS low,
                greatest(quantile_cont(v, 0.995) - quantile_cont(v, 0.005), 1e-9) / {int(bins)} AS width
            FROM long GROUP BY what),
        binned AS (
            SELECT what, side, low, width, least(greatest(floor((v - low) / width), 0), {int(bins) - 1}) AS bin
            FROM long JOIN span USING (what))
        SELECT what, side, {_edges("low", "width")}, count(*) AS n,
            count(*) / sum(count(*)) OVER (PARTITION BY what, side) AS share
        FROM binned GROUP BY what, side, low, width, bin ORDER BY what, side, x""").df()


def heat(con: duckdb.DuckDBPyConnection, dataset_id: int, model_id: int) -> pd.DataFrame:
    """Reward of chosen against reward of rejected in a square of BINS x BINS: x, x2, y, y2, n."""
    return con.execute(f"""
        WITH m AS (SELECT c, r FROM {_margins(dataset_id, model_id)}),
        span AS (
            SELECT least(quantile_cont(c, 0.002), quantile_cont(r, 0.002)) AS low,
                greatest(quantile_cont(c, 0.998), quantile_cont(r, 0.998)) AS high FROM m),
        cut AS (
            SELECT least(greatest(floor((c - low) / w), 0), {BINS - 1}) AS i,
                least(greatest(floor((r - low) / w), 0), {BINS - 1}) AS j, low, w
            FROM m, (SELECT low, greatest(high - low, 1e-9) / {BINS} AS w FROM span) s)
        SELECT low + i * w AS x, low + (i + 1) * w AS x2, low + j * w AS y, low + (j + 1) * w AS y2, count(*) AS n
        FROM cut GROUP BY ALL""").df()


def quadrants(con: duckdb.DuckDBPyConnection, dataset_id: int, model_id: int) -> pd.DataFrame:
    """Signs of (chosen, rejected): chosen_positive, rejected_positive, n, aligned."""
    return con.execute(f"""
        SELECT c > 0 AS chosen_positive, r > 0 AS rejected_positive, count(*) AS n, count_if(m > 0) AS aligned
        FROM {_margins(dataset_id, model_id)} GROUP BY ALL ORDER BY ALL""").df()


def most_disputed(con: duckdb.DuckDBPyConnection, dataset_id: int, a: int, b: int, most: int = 50) -> pd.DataFrame:
    """Pairs on which two models disagree most, by the difference of their standardised margins.

    Columns: pair_no, pair_id, subset, margin_a, margin_b (in each model's own margin SD), prompt (its last turn).
    """
    return con.execute(
        f"""
        WITH x AS (SELECT pair_no, m / nullif(stddev_samp(m) OVER (), 0) AS za FROM {_margins(dataset_id, a)}),
        y AS (SELECT pair_no, m / nullif(stddev_samp(m) OVER (), 0) AS zb FROM {_margins(dataset_id, b)}),
        top AS (
            SELECT pair_no, za, zb FROM x JOIN y USING (pair_no) WHERE sign(za) <> sign(zb)
            ORDER BY abs(za - zb) DESC, pair_no LIMIT {int(most)})
        SELECT p.pair_no, p.pair_id, p.subset, za AS margin_a, zb AS margin_b,
            left(json_extract_string(q.turns, '$[#-1][1]'), 160) AS prompt
        FROM top JOIN pairs p ON p.pair_no = top.pair_no AND p.dataset_id = ? JOIN prompts q USING (prompt_id)
        ORDER BY abs(za - zb) DESC, p.pair_no""",
        [dataset_id],
    ).df()
