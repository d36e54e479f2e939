// Files and folders can be dropped on the form, and it shows how far they are. Without this script the form sends itself.
(() => {
  const form = document.getElementById("upload"), drop = document.getElementById("drop");
  if (!form || !drop) return;
  const at = (id) => document.getElementById(id);
  const size = (bytes) => (bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`);
  const dropped = [];
  const tell = () => { at("dropped").textContent = dropped.length ? `Dropped: ${dropped.length} files, ${size(dropped.reduce((sum, one) => sum + one.file.size, 0))}` : "Files and folders can also be dropped here."; };
  const entries = (reader) => new Promise((found, failed) => reader.readEntries(found, failed));
  const walk = async (entry, path) => {
    if (entry instanceof File) {
      dropped.push({ path: entry.name, file: entry });
      return;
    }
    if (entry.isFile) {
      dropped.push({ path: path + entry.name, file: await new Promise((found, failed) => entry.file(found, failed)) });
      return;
    }
    const reader = entry.createReader();
    for (let some = await entries(reader); some.length; some = await entries(reader)) {
      for (const one of some) await walk(one, `${path}${entry.name}/`);
    }
  };
  const main = document.querySelector("main"), result = at("result");
  const put = (found) => (result.isConnected ? result.replaceChildren(found) : main.append(found));
  const say = (text) => put(Object.assign(document.createElement("p"), { className: "notice bad", textContent: text }));
  form.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  form.addEventListener("dragleave", () => drop.classList.remove("over"));
  form.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const found = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile()).filter(Boolean);
    try {
      for (const entry of found) await walk(entry, "");
    } catch (error) {
      say(`What was dropped cannot be read: ${error.message}`);
    }
    tell();
  });
  // The answer is a page that grows while the import goes on; one that refuses the form leaves it as it is.
  const show = (text, isWhole) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    const refusal = isWhole && page.querySelector("main .notice");
    if (page.getElementById("import")) main.replaceChildren(...page.querySelector("main").childNodes);
    else if (refusal) put(document.adoptNode(refusal));
    else if (isWhole) say("The console did not take the files.");
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const data = new FormData();
    let total = 0;
    const add = (name, file, path) => { data.append(name, file, path); total += file.size; };
    for (const [name, value] of new FormData(form)) {
      if (!(value instanceof File)) data.append(name, value);
      else if (value.name) add(name, value, value.webkitRelativePath || value.name);
    }
    for (const { file, path } of dropped) add("files", file, path);
    if (!total) return say("Choose files, or drop them on the form.");
    if (total > Number(form.dataset.most)) return say(`These files have ${size(total)}; at most ${size(Number(form.dataset.most))} are taken at once.`);
    const request = new XMLHttpRequest(), button = form.querySelector("button.main"), sending = at("sending");
    const end = () => { button.disabled = false; sending.hidden = true; };
    button.disabled = true;
    result.replaceChildren();
    sending.hidden = false;
    request.upload.addEventListener("progress", ({ loaded }) => {
      at("sent").value = Math.min(1, loaded / total);
      at("sent-text").textContent = `${size(Math.min(loaded, total))} of ${size(total)} sent`;
    });
    request.addEventListener("progress", () => show(request.responseText, false));
    request.addEventListener("load", () => {
      end();
      if (new URL(request.responseURL).pathname === "/sign-in") window.location = request.responseURL;
      else show(request.responseText, true);
    });
    request.addEventListener("error", () => { end(); say("The connection broke before the import was done. Send the files again."); });
    request.open("POST", form.action);
    request.send(data);
  });
  tell();
})();
