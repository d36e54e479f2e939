"""Inference: how busy engines and endpoints are, how long requests wait and run; vLLM's and the GPUs' own metrics."""

from tools.dashboards.panels import HERE, RATE, Board, Graph, Number, Row, quantile, rate

MODEL_SERVICES = 'service=~"omnialign.v1.(Refinement|Critique|Judge)Service"'
MODEL_CALLS = f'{HERE}, component!="gateway", {MODEL_SERVICES}'

LOAD_ROW = Row(
    "Load",
    [
        Graph(
            "Tokens",
            {"{{direction}}": rate("omnialign_engine_tokens_total", HERE, by="direction")},
            unit="cps",
            description="Tokens per second read (in) and written (out).",
        ),
        Graph(
            "Requests by outcome",
            {"{{outcome}}": rate("omnialign_engine_requests_total", HERE, by="outcome")},
            unit="reqps",
            description="How generations ended: end or stop token, length limit, error, cancelled by the caller.",
        ),
        Graph(
            "Calls of the model services, 95 %",
            {"{{method}}": quantile(0.95, "omnialign_rpc_duration_seconds", MODEL_CALLS, by="method")},
            unit="s",
            description="Time until the last item of a call is answered; a call carries a chunk of records.",
        ),
    ],
)

REQUESTS_ROW = Row(
    "Batches and queue",
    [
        Graph(
            "Rows running",
            {"{{pod}}": f"sum by (pod) (omnialign_engine_rows_running{{{HERE}}})"},
            unit="none",
            width=6,
            description="Sequences being generated.",
        ),
        Graph(
            "Batch size",
            {
                "median": quantile(0.5, "omnialign_engine_batch_rows", HERE),
                "95 %": quantile(0.95, "omnialign_engine_batch_rows", HERE),
            },
            unit="none",
            width=6,
            description="Rows of a batch at its start. Small ones under load mean too little memory for the cache.",
        ),
        Graph(
            "Queue depth",
            {"{{pod}}": f"sum by (pod) (omnialign_engine_queue_depth{{{HERE}}})"},
            unit="none",
            width=6,
            description="Requests that wait for a batch. The autoscaler uses this.",
        ),
        Graph(
            "Queue age",
            {"{{pod}}": f"max by (pod) (omnialign_engine_queue_age_seconds{{{HERE}}})"},
            unit="s",
            width=6,
            description="How long the request at the head of the queue has waited.",
        ),
        Graph(
            "Wait for a batch",
            {
                "median": quantile(0.5, "omnialign_engine_queue_wait_seconds", HERE),
                "95 %": quantile(0.95, "omnialign_engine_queue_wait_seconds", HERE),
            },
            unit="s",
            width=12,
            description="Time from the queue to a batch.",
        ),
        Graph(
            "Generation",
            {
                "median": quantile(0.5, "omnialign_engine_generation_seconds", HERE),
                "95 %": quantile(0.95, "omnialign_engine_generation_seconds", HERE),
            },
            unit="s",
            width=12,
            description="Time from the start of its batch to a request's last token.",
        ),
    ],
)

CACHE_USED, CACHE_BUDGET = (f"omnialign_engine_cache_{name}{{{HERE}}}" for name in ("bytes", "budget_bytes"))

MEMORY_ROW = Row(
    "Memory",
    [
        Graph(
            "Attention cache in use",
            {"{{pod}}": f"max by (pod) ({CACHE_USED} / {CACHE_BUDGET})"},
            unit="percentunit",
            width=6,
            maximum=1,
            description="Share of the cache budget that batches have reserved. At 1, requests wait for room.",
        ),
        Graph(
            "Models in memory",
            {"{{pod}}": f"sum by (pod) (omnialign_engine_models_resident{{{HERE}}})"},
            unit="none",
            width=6,
            description="Loaded models. If the number goes up and down, memory is too small for the models in use.",
        ),
        Graph(
            "Weights in memory",
            {"{{pod}}": f"sum by (pod) (omnialign_engine_model_bytes{{{HERE}}})"},
            unit="bytes",
            width=6,
            description="Bytes of the weights of all models in memory.",
        ),
        Graph(
            "Time to load a model",
            {"95 %": quantile(0.95, "omnialign_engine_model_load_seconds", HERE)},
            unit="s",
            width=6,
            description="Time to fetch a model and bring it into memory.",
        ),
    ],
)


def _hit_rate(cache: str) -> str:
    hits, queries = (f"sum(rate(vllm:{cache}_{name}_total{{{HERE}}}[{RATE}]))" for name in ("hits", "queries"))
    return f"{hits} / {queries}"


VLLM_ROW = Row(
    "vLLM's own metrics (empty where the engine is not vLLM)",
    [
        Graph(
            "Requests running and waiting",
            {
                "{{model_name}} running": f"sum by (model_name) (vllm:num_requests_running{{{HERE}}})",
                "{{model_name}} waiting": f"sum by (model_name) (vllm:num_requests_waiting{{{HERE}}})",
            },
            unit="none",
            description="Requests in the batch, and requests that wait for a place in it.",
        ),
        Graph(
            "Time to the first token",
            {
                "{{model_name}} median": quantile(0.5, "vllm:time_to_first_token_seconds", HERE, by="model_name"),
                "{{model_name}} 95 %": quantile(0.95, "vllm:time_to_first_token_seconds", HERE, by="model_name"),
            },
            unit="s",
            description="Time in the queue and of the prefill, from a request to its first token.",
        ),
        Graph(
            "Time between tokens",
            {
                "{{model_name}} median": quantile(0.5, "vllm:inter_token_latency_seconds", HERE, by="model_name"),
                "{{model_name}} 95 %": quantile(0.95, "vllm:inter_token_latency_seconds", HERE, by="model_name"),
            },
            unit="s",
            description="The pace of decoding, which a reader of streamed answers sees.",
        ),
        Graph(
            "Tokens of vLLM",
            {
                "{{model_name}} in": rate("vllm:prompt_tokens_total", HERE, by="model_name"),
                "{{model_name}} out": rate("vllm:generation_tokens_total", HERE, by="model_name"),
            },
            unit="cps",
            width=6,
            description="Tokens per second read and written.",
        ),
        Graph(
            "Cache in use",
            {"{{pod}}": f"max by (pod) (vllm:kv_cache_usage_perc{{{HERE}}})"},
            unit="percentunit",
            width=6,
            maximum=1,
            description="Share of the key-value cache that is in use; from 0 to 1, despite the metric's name.",
        ),
        Graph(
            "Cache hits",
            {
                "prefixes": _hit_rate("prefix_cache"),
                "media": _hit_rate("mm_cache"),
            },
            unit="percentunit",
            width=6,
            maximum=1,
            description="Share of prefixes, and of processed media, that were in a cache.",
        ),
        Graph(
            "Preemptions and endings",
            {
                "preempted": f"sum(rate(vllm:num_preemptions_total{{{HERE}}}[{RATE}]))",
                "{{finished_reason}}": rate("vllm:request_success_total", HERE, by="finished_reason"),
            },
            unit="cps",
            width=6,
            description="Requests evicted from the batch for lack of cache, and requests finished, by reason.",
        ),
    ],
)

LIMIT = f"sum by (endpoint) (omnialign_endpoint_concurrency_limit{{{HERE}}})"
RUNNING = f"sum by (endpoint) (omnialign_endpoint_requests_running{{{HERE}}})"
ENDPOINT_SECONDS, ENDPOINT_TOKENS = "omnialign_endpoint_request_seconds", "omnialign_endpoint_tokens_total"

ENDPOINTS_ROW = Row(
    "Endpoints (OpenAI-compatible)",
    [
        Graph(
            "Requests to endpoints",
            {"{{endpoint}} {{outcome}}": rate("omnialign_endpoint_requests_total", HERE, by="endpoint, outcome")},
            unit="reqps",
            description="How requests ended: answered, cut at their length, failed after all retries, cancelled.",
        ),
        Graph(
            "Tries that failed",
            {"{{endpoint}} {{reason}}": rate("omnialign_endpoint_retries_total", HERE, by="endpoint, reason")},
            unit="reqps",
            description="Attempts that failed for a transient reason: rate limit, overload, no connection, time-out.",
        ),
        Graph(
            "Requests at endpoints",
            {
                "{{endpoint}}": RUNNING,
                "{{endpoint}} at most": LIMIT,
            },
            unit="none",
            description="Requests at an endpoint, and the limit that it was found to handle; all pods together.",
        ),
        Graph(
            "Time to an answer",
            {
                "{{endpoint}} median": quantile(0.5, ENDPOINT_SECONDS, HERE, by="endpoint"),
                "{{endpoint}} 95 %": quantile(0.95, ENDPOINT_SECONDS, HERE, by="endpoint"),
            },
            unit="s",
            width=12,
            description="Time of the attempt that succeeded, without waiting and without failed attempts.",
        ),
        Graph(
            "Tokens of endpoints",
            {"{{endpoint}} {{direction}}": rate(ENDPOINT_TOKENS, HERE, by="endpoint, direction")},
            unit="cps",
            width=12,
            description="Tokens per second read (in) and written (out), as the endpoint counts them.",
        ),
    ],
)

DEVICES_ROW = Row(
    "GPUs (where NVIDIA's DCGM exporter runs)",
    [
        Graph(
            "Engines active",
            {"{{exported_pod}}": f"avg by (exported_pod) (DCGM_FI_PROF_GR_ENGINE_ACTIVE{{exported_{HERE}}})"},
            unit="percentunit",
            maximum=1,
            description="Share of the time in which the GPU computed anything.",
        ),
        Graph(
            "Memory in use",
            {"{{exported_pod}}": f"sum by (exported_pod) (DCGM_FI_DEV_FB_USED{{exported_{HERE}}}) * 1048576"},
            unit="bytes",
            description="Memory of the GPUs that a pod holds.",
        ),
        Number(
            "Errors (XID)",
            f"max(DCGM_FI_DEV_XID_ERRORS{{exported_{HERE}}})",
            unit="none",
            width=8,
            height=8,
            description="Number of the last error that the driver reported; 0 for none. See NVIDIA's list of XIDs.",
        ),
    ],
)

BOARD = Board(
    "omnialign / Inference",
    uid="omnialign-inference",
    description="The engines behind the refinement, critique and judge services.",
    rows=[LOAD_ROW, REQUESTS_ROW, MEMORY_ROW, VLLM_ROW, ENDPOINTS_ROW, DEVICES_ROW],
)
