"""What `make bench-scale` makes of its measurements, and that the job it measures runs to its end."""

from pathlib import Path

from benchmarks import scale
from benchmarks.scale_page import page, plot


def row(records: int, seconds: float, **peak_mib: float) -> dict[str, object]:
    return {
        "records": records,
        "records_per_second": records / seconds,
        "ms_per_record": 1000 * seconds / records,
        "loop_seconds": seconds,
        "job_seconds": seconds,
        "evaluation_seconds": seconds,
        "models_share": 0.1 if records < 3000 else 0.09,
        "peak_mib": peak_mib,
        "stored_bytes_per_record": 1024,
    }


SIZES = (
    row(1000, 1.0, data=100, alignment=50, evaluation=40),
    row(2000, 2.0, data=110, alignment=50, evaluation=40),
    row(3000, 4.0, data=130, alignment=60, evaluation=42),
)


def test_ratios_compare_the_largest_size_with_the_smallest_and_take_the_worst_service() -> None:
    found = scale.summary(SIZES)
    assert found["throughput_ratio"] == 0.75
    assert found["throughput_ratio_at_equal_speed"] == 0.9
    assert found["memory_ratio"] == 1.3
    assert found["memory_ratio_to_next_smaller"] == 1.2


def test_runs_of_a_size_count_with_the_median_of_their_times_and_the_most_memory() -> None:
    runs = [
        scale.Found(10, seconds, 2 * seconds, 3 * seconds, {"data": round(9 / seconds)}, seconds / 8, 7)
        for seconds in (1.0, 3.0)
    ]
    assert scale.Found.together(runs) == scale.Found(10, 2.0, 4.0, 6.0, {"data": 9}, 0.25, 7)


def test_projection_goes_on_as_between_the_two_largest_sizes() -> None:
    found = scale.projection(SIZES[1], SIZES[2], records=5000)
    assert found["loop_hours"] == round(8 / 3600, 2)
    assert found["peak_mib"] == {"data": 170, "alignment": 80, "evaluation": 46}


def test_page_and_picture_show_every_size(tmp_path: Path) -> None:
    found = {"machine": scale.machine_facts(), "local": scale.summary(SIZES)}
    text = page(found)
    assert all(f"| {size:,} |" in text for size in (1000, 2000, 3000))
    plot(found, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


async def test_every_record_of_a_measured_job_is_judged() -> None:
    found = await scale.measure("local", 40)
    assert found.records == 40 and found.loop_seconds > 0
    assert min(found.peak_bytes.values()) > 2**20
    assert 0 < found.models_seconds < found.job_seconds
    assert found.stored_bytes > 0


def test_sizes_run_upwards_and_down_again_and_short_jobs_several_times() -> None:
    assert list(scale.in_turn((4_000, 32_000, 256_000))) == [*[4_000] * 4, 32_000, 256_000, 32_000, *[4_000] * 4]
