// Follows what happens: an element with data-events shows each part of a page that the server sends under its name.
// A browser connects again by itself, and tells the last event that it saw.
(() => {
  const follow = (element) => {
    const source = new EventSource(element.dataset.events);
    source.addEventListener("part", (event) => {
      const [target, ...html] = event.data.split("\n");
      const place = document.getElementById(target);
      if (place) htmx.swap(place, html.join("\n"), { swapStyle: "innerHTML" });
    });
    source.addEventListener("end", () => source.close());
    source.addEventListener("away", (event) => { document.getElementById("notice").textContent = event.data; });
    source.addEventListener("open", () => { document.getElementById("notice").textContent = ""; });
  };
  document.querySelectorAll("[data-events]").forEach(follow);
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
