// Fetches the page again and puts in what changed. Everything is there without it, too.
(() => {
  "use strict";
  const live = document.getElementById("live");
  let busy = false;
  let updates = 0;

  function put(fresh) {
    for (const shown of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(shown.id);
      if (next && next.innerHTML !== shown.innerHTML) {
        const focused = shown.contains(document.activeElement) && document.activeElement.id;
        shown.replaceChildren(...next.childNodes);
        if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
      }
    }
  }

  async function refresh() {
    const chosen = getSelection();
    // Nobody looks, or somebody is about to copy something.
    if (busy || document.hidden || (chosen && chosen.type === "Range")) return;
    busy = true;
    try {
      const limit = AbortSignal.timeout(8000);
      const answer = await fetch(location.href, { cache: "no-store", signal: limit });
      if (!answer.ok) throw new Error(answer.statusText);
      put(new DOMParser().parseFromString(await answer.text(), "text/html"));
      updates += 1;
      document.documentElement.dataset.updates = updates;
      live.textContent = "live, every 2 s";
      live.classList.remove("lost");
    } catch {
      if (!live.classList.contains("lost")) {
        live.textContent = "no answer since " + new Date().toLocaleTimeString();
        live.classList.add("lost");
      }
    } finally {
      busy = false;
    }
  }

  live.textContent = "live, every 2 s";
  setInterval(refresh, 2000);
  document.addEventListener("visibilitychange", refresh);
})();
