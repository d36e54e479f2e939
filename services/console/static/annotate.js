// A draft is saved soon after a change, one at a time. What is on its way is also kept in the tab, so that a session that
// ended meanwhile costs nothing: after signing in, the same task at the same revision gets it back.
(() => {
  const form = document.getElementById("task"), saved = document.getElementById("saved");
  if (!form || !saved) return;
  const AFTER_MS = 2000, AGAIN_MS = 5000, PREFIX = "draft ", key = PREFIX + form.dataset.task;
  let timer = 0, isSaving = false, waiting = null;
  const later = (ms) => { timer ||= setTimeout(() => { timer = 0; htmx.trigger(saved, "draft"); }, ms); };
  const keep = () => sessionStorage.setItem(key, JSON.stringify([...new FormData(form)]));
  form.addEventListener("input", () => later(AFTER_MS));
  saved.addEventListener("htmx:beforeRequest", () => { isSaving = true; keep(); });
  saved.addEventListener("htmx:afterRequest", (event) => {
    isSaving = false;
    if (event.detail.successful) sessionStorage.removeItem(key);
    else if (!event.detail.xhr.status || event.detail.xhr.status >= 500) later(AGAIN_MS);
    if (waiting) form.requestSubmit(waiting);
    waiting = null;
  });
  // A form that leaves while its draft is on the way would go on from a revision that is no longer the newest.
  form.addEventListener("submit", (event) => {
    clearTimeout(timer);
    timer = 0;
    keep();
    if (!isSaving) return;
    event.preventDefault();
    waiting = event.submitter;
  });
  const first = (radio) => form.elements.namedItem(radio.name)[0];
  const checked = (radio) => [...form.elements.namedItem(radio.name)].find((other) => other.checked) || radio;
  // A digit chooses, and leads to the next field that must be filled in: choosing takes one key.
  form.addEventListener("keydown", (event) => {
    if (event.target.type !== "radio" || event.altKey || event.ctrlKey || event.metaKey) return;
    const chosen = [...form.elements.namedItem(event.target.name)].find((radio) => radio.value === event.key);
    if (!chosen) return;
    event.preventDefault();
    chosen.click();
    const needed = [...form.elements].filter((field) => field.required && (field.type !== "radio" || first(field) === field));
    const next = needed[needed.indexOf(first(chosen)) + 1];
    (next?.type === "radio" ? checked(next) : next)?.focus();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-take]");
    if (!button) return;
    const field = form.elements.namedItem(button.dataset.take);
    field.value = document.getElementById(button.dataset.player).currentTime.toFixed(2);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
  // A part of a model's draft that is rejected is emptied; accepted again, it is what it was.
  form.addEventListener("change", ({ target }) => {
    if (!target.name.startsWith("origin.")) return;
    const fields = [...target.closest("[data-part]").querySelectorAll("textarea, input[type=radio]")];
    for (const field of fields.filter((one) => !one.name.startsWith("origin."))) {
      if (target.value === "rejected") {
        if (field.type === "radio") field.checked = false; else field.value = "";
      } else if (field.type === "radio") {
        field.checked ||= field.defaultChecked && !form.elements.namedItem(field.name).value;
      } else {
        field.value ||= field.defaultValue;
      }
    }
  });
  const kept = Object.fromEntries(JSON.parse(sessionStorage.getItem(key) || "[]"));
  Object.keys(sessionStorage).filter((name) => name.startsWith(PREFIX)).forEach((name) => sessionStorage.removeItem(name));
  if (kept.revision !== form.elements.namedItem("revision").value) return;
  for (const [name, value] of Object.entries(kept)) {
    const field = form.elements.namedItem(name);
    if (field && name !== "csrf") field.value = value;
  }
  later(0);
})();
