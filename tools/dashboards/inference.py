"""Inference: how busy engines and endpoints are, how long requests wait and run; vLLM's and the GPUs' own metrics."""

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.parts import HERE, RATE, Query, board, graph, number, quantile, rate, row

MODEL_SERVICES = 'service=~"omnialign.v1.(Refinement|Critique|Judge)Service"'
LEVELS = ("concurrency_limit", "requests_running")


def build() -> dashboard.Dashboard:
    """The dashboard."""
    made = board(
        "omnialign / Inference",
        uid="omnialign-inference",
        description="The engines behind the refinement, critique and judge services.",
    )
    return _devices(_endpoints(_vllm(_memory(_requests(_load(made))))))


def _load(made: dashboard.Dashboard) -> dashboard.Dashboard:
    calls = f'{HERE}, component!="gateway", {MODEL_SERVICES}'
    return (
        made.with_row(row("Load"))
        .with_panel(
            graph(
                "Tokens",
                Query(rate("omnialign_engine_tokens_total", HERE, by="direction"), "{{direction}}"),
                unit="cps",
                description="Tokens per second read (in) and written (out).",
            )
        )
        .with_panel(
            graph(
                "Requests by outcome",
                Query(rate("omnialign_engine_requests_total", HERE, by="outcome"), "{{outcome}}"),
                unit="reqps",
                description="How generations ended: end or stop token, length limit, error, cancelled by the caller.",
            )
        )
        .with_panel(
            graph(
                "Calls of the model services, 95 %",
                Query(quantile(0.95, "omnialign_rpc_duration_seconds", calls, by="method"), "{{method}}"),
                unit="s",
                description="Time until the last item of a call is answered; a call carries a chunk of records.",
            )
        )
    )


def _requests(made: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        made.with_row(row("Batches and queue"))
        .with_panel(
            graph(
                "Rows running",
                Query(f"sum by (pod) (omnialign_engine_rows_running{{{HERE}}})", "{{pod}}"),
                unit="none",
                description="Sequences being generated.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Batch size",
                Query(quantile(0.5, "omnialign_engine_batch_rows", HERE), "median"),
                Query(quantile(0.95, "omnialign_engine_batch_rows", HERE), "95 %"),
                unit="none",
                description="Rows of a batch when it starts. Small ones under load: too little memory for the cache.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Queue depth",
                Query(f"sum by (pod) (omnialign_engine_queue_depth{{{HERE}}})", "{{pod}}"),
                unit="none",
                description="Requests that wait for a batch. The autoscaler looks at this.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Queue age",
                Query(f"max by (pod) (omnialign_engine_queue_age_seconds{{{HERE}}})", "{{pod}}"),
                unit="s",
                description="How long the request at the head of the queue has waited.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Wait for a batch",
                Query(quantile(0.5, "omnialign_engine_queue_wait_seconds", HERE), "median"),
                Query(quantile(0.95, "omnialign_engine_queue_wait_seconds", HERE), "95 %"),
                unit="s",
                description="Time from the queue to a batch.",
                width=12,
            )
        )
        .with_panel(
            graph(
                "Generation",
                Query(quantile(0.5, "omnialign_engine_generation_seconds", HERE), "median"),
                Query(quantile(0.95, "omnialign_engine_generation_seconds", HERE), "95 %"),
                unit="s",
                description="Time from the start of its batch to a request's last token.",
                width=12,
            )
        )
    )


def _memory(made: dashboard.Dashboard) -> dashboard.Dashboard:
    used, budget = (f"omnialign_engine_cache_{name}{{{HERE}}}" for name in ("bytes", "budget_bytes"))
    return (
        made.with_row(row("Memory"))
        .with_panel(
            graph(
                "Attention cache in use",
                Query(f"max by (pod) ({used} / {budget})", "{{pod}}"),
                unit="percentunit",
                description="Share of the cache budget that batches have set aside. At 1, requests wait for room.",
                maximum=1,
                width=6,
            )
        )
        .with_panel(
            graph(
                "Models in memory",
                Query(f"sum by (pod) (omnialign_engine_models_resident{{{HERE}}})", "{{pod}}"),
                unit="none",
                description="Models loaded. A number that goes up and down: too little memory for the models in use.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Weights in memory",
                Query(f"sum by (pod) (omnialign_engine_model_bytes{{{HERE}}})", "{{pod}}"),
                unit="bytes",
                description="Bytes of the weights of all models in memory.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Time to load a model",
                Query(quantile(0.95, "omnialign_engine_model_load_seconds", HERE), "95 %"),
                unit="s",
                description="Time to fetch a model and bring it into memory.",
                width=6,
            )
        )
    )


def _vllm(made: dashboard.Dashboard) -> dashboard.Dashboard:
    def hits(cache: str) -> str:
        found, asked = (f"sum(rate(vllm:{cache}_{name}_total{{{HERE}}}[{RATE}]))" for name in ("hits", "queries"))
        return f"{found} / {asked}"

    return (
        made.with_row(row("vLLM's own metrics (empty where the engine is not vLLM)"))
        .with_panel(
            graph(
                "Requests running and waiting",
                Query(f"sum by (model_name) (vllm:num_requests_running{{{HERE}}})", "{{model_name}} running"),
                Query(f"sum by (model_name) (vllm:num_requests_waiting{{{HERE}}})", "{{model_name}} waiting"),
                unit="none",
                description="Requests in the batch, and requests that wait for a place in it.",
            )
        )
        .with_panel(
            graph(
                "Time to the first token",
                Query(
                    quantile(0.5, "vllm:time_to_first_token_seconds", HERE, by="model_name"), "{{model_name}} median"
                ),
                Query(quantile(0.95, "vllm:time_to_first_token_seconds", HERE, by="model_name"), "{{model_name}} 95 %"),
                unit="s",
                description="Time in the queue and of the prefill, from a request to its first token.",
            )
        )
        .with_panel(
            graph(
                "Time between tokens",
                Query(
                    quantile(0.5, "vllm:inter_token_latency_seconds", HERE, by="model_name"), "{{model_name}} median"
                ),
                Query(quantile(0.95, "vllm:inter_token_latency_seconds", HERE, by="model_name"), "{{model_name}} 95 %"),
                unit="s",
                description="The pace of decoding, which a reader of streamed answers sees.",
            )
        )
        .with_panel(
            graph(
                "Tokens of vLLM",
                Query(rate("vllm:prompt_tokens_total", HERE, by="model_name"), "{{model_name}} in"),
                Query(rate("vllm:generation_tokens_total", HERE, by="model_name"), "{{model_name}} out"),
                unit="cps",
                description="Tokens per second read and written.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Cache in use",
                Query(f"max by (pod) (vllm:kv_cache_usage_perc{{{HERE}}})", "{{pod}}"),
                unit="percentunit",
                description="Share of the key-value cache that is in use; from 0 to 1 in spite of the metric's name.",
                maximum=1,
                width=6,
            )
        )
        .with_panel(
            graph(
                "Cache hits",
                Query(hits("prefix_cache"), "prefixes"),
                Query(hits("mm_cache"), "media"),
                unit="percentunit",
                description="Share of prefixes, and of processed media, that were in a cache.",
                maximum=1,
                width=6,
            )
        )
        .with_panel(
            graph(
                "Preemptions and endings",
                Query(f"sum(rate(vllm:num_preemptions_total{{{HERE}}}[{RATE}]))", "preempted"),
                Query(rate("vllm:request_success_total", HERE, by="finished_reason"), "{{finished_reason}}"),
                unit="cps",
                description="Requests thrown out of the batch for want of cache, and requests ended, by reason.",
                width=6,
            )
        )
    )


def _endpoints(made: dashboard.Dashboard) -> dashboard.Dashboard:
    limit, running = (f"sum by (endpoint) (omnialign_endpoint_{name}{{{HERE}}})" for name in LEVELS)
    seconds, tokens = "omnialign_endpoint_request_seconds", "omnialign_endpoint_tokens_total"
    return (
        made.with_row(row("Endpoints (OpenAI-compatible)"))
        .with_panel(
            graph(
                "Requests to endpoints",
                Query(
                    rate("omnialign_endpoint_requests_total", HERE, by="endpoint, outcome"), "{{endpoint}} {{outcome}}"
                ),
                unit="reqps",
                description="How requests ended: answered, cut at their length, failed after all retries, cancelled.",
            )
        )
        .with_panel(
            graph(
                "Tries that failed",
                Query(rate("omnialign_endpoint_retries_total", HERE, by="endpoint, reason"), "{{endpoint}} {{reason}}"),
                unit="reqps",
                description="Tries that failed for a passing reason: a rate limit, overload, no connection, no time.",
            )
        )
        .with_panel(
            graph(
                "Requests at endpoints",
                Query(running, "{{endpoint}}"),
                Query(limit, "{{endpoint}} at most"),
                unit="none",
                description="Requests at an endpoint, and how many it is found to bear; all pods together.",
            )
        )
        .with_panel(
            graph(
                "Time to an answer",
                Query(quantile(0.5, seconds, HERE, by="endpoint"), "{{endpoint}} median"),
                Query(quantile(0.95, seconds, HERE, by="endpoint"), "{{endpoint}} 95 %"),
                unit="s",
                description="Time of the try that was answered, without waiting and without those that failed.",
                width=12,
            )
        )
        .with_panel(
            graph(
                "Tokens of endpoints",
                Query(rate(tokens, HERE, by="endpoint, direction"), "{{endpoint}} {{direction}}"),
                unit="cps",
                description="Tokens per second read (in) and written (out), as the endpoint counts them.",
                width=12,
            )
        )
    )


def _devices(made: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        made.with_row(row("GPUs (where NVIDIA's DCGM exporter runs)"))
        .with_panel(
            graph(
                "Engines active",
                Query(f"avg by (exported_pod) (DCGM_FI_PROF_GR_ENGINE_ACTIVE{{exported_{HERE}}})", "{{exported_pod}}"),
                unit="percentunit",
                description="Share of the time in which the GPU computed anything.",
                maximum=1,
            )
        )
        .with_panel(
            graph(
                "Memory in use",
                Query(
                    f"sum by (exported_pod) (DCGM_FI_DEV_FB_USED{{exported_{HERE}}}) * 1048576",
                    "{{exported_pod}}",
                ),
                unit="bytes",
                description="Memory of the GPUs that a pod holds.",
            )
        )
        .with_panel(
            number(
                "Errors (XID)",
                Query(f"max(DCGM_FI_DEV_XID_ERRORS{{exported_{HERE}}})"),
                height=8,
                unit="none",
                description="Number of the last error that the driver reported; 0 for none. See NVIDIA's list of XIDs.",
                width=8,
            )
        )
    )
