// While the page grows, a button stops it: a browser that no longer loads stops the models. So does Escape.
(() => {
  const button = document.getElementById("stop");
  button.hidden = document.readyState === "complete";
  addEventListener("load", () => { button.hidden = true; });
  button.addEventListener("click", () => {
    window.stop();
    button.hidden = true;
    document.querySelectorAll(".tried > .wait, .tried > .draft > :last-child").forEach((one) => { one.textContent = "Stopped."; });
  });
})();
