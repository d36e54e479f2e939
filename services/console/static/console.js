// Follows what happens: an element with data-events shows each part of a page that the server sends under its name.
// A browser connects again by itself, and tells the last event that it saw.
(() => {
  const AWAY = "The console does not answer. This page goes on by itself as soon as it does.", AGAIN_MS = 5000;
  const notice = document.getElementById("notice");
  const say = (text) => { notice.textContent = text; };
  const follow = (element) => {
    const source = new EventSource(element.dataset.events);
    source.addEventListener("part", (event) => {
      const [target, ...html] = event.data.split("\n");
      const place = document.getElementById(target);
      if (place) htmx.swap(place, html.join("\n"), { swapStyle: "innerHTML" });
    });
    source.addEventListener("end", () => source.close());
    source.addEventListener("away", (event) => say(event.data));
    source.addEventListener("here", () => say(""));
    source.addEventListener("error", () => {
      if (!notice.textContent) say(AWAY);
      if (source.readyState === EventSource.CLOSED) setTimeout(() => follow(element), AGAIN_MS); // it was refused
    });
  };
  document.querySelectorAll("[data-events]").forEach(follow);
  // Parts of a page that could not be had say so, until one can be had again.
  document.addEventListener("htmx:sendError", () => say(AWAY));
  document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) say(""); });
  // Drafts that a tab keeps are those of whoever is signed in.
  document.addEventListener("submit", (event) => {
    if (event.target.getAttribute("action") === "/sign-out") sessionStorage.clear();
  });
  // A question before what cannot be undone; without scripts, the form leads to a page that asks.
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset?.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
    else if (question) event.target.querySelector("[name=confirmed]")?.setAttribute("value", "yes");
  });
})();
