// Hides the prompts that the controls do not choose; an address that names a hidden one shows all again.
(() => {
  const form = document.getElementById("filters");
  const sections = [...document.querySelectorAll("section")];
  const cards = [...document.querySelectorAll(".card")];
  const chosen = (name) => form.elements[name].value;
  const fits = (card) => {
    if (chosen("suite") && card.parentElement.id !== chosen("suite")) return false;
    if (chosen("odds") && !card.hasAttribute(`data-${chosen("odds")}`)) return false;
    if (!chosen("word") && !chosen("model")) return true;
    return [...card.querySelectorAll("[data-words]")].some((said) =>
      (!chosen("model") || said.dataset.place === chosen("model")) &&
      (!chosen("word") || said.dataset.words.split(" ").includes(chosen("word"))));
  };
  const choose = () => {
    for (const card of cards) card.hidden = !fits(card);
    for (const section of sections) section.hidden = !section.querySelector(".card:not([hidden])");
    const count = cards.filter((card) => !card.hidden).length;
    form.querySelector("[role=status]").textContent = `${count} of ${cards.length} prompts`;
  };
  const follow = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target) return;
    if (target.closest("[hidden]")) { form.reset(); choose(); }
    target.scrollIntoView();
  };
  form.hidden = false;
  form.addEventListener("change", choose);
  form.addEventListener("reset", () => setTimeout(choose));
  window.addEventListener("hashchange", follow);
  choose();
  follow();
})();
