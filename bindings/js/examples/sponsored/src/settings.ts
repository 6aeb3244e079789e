/** Addresses: those of `slackwater dev`, unless the page's address says otherwise (`?relayer=…&rpc=…`). */
const asked = new URLSearchParams(location.search)

export const settings = {
  /** The relayer. */
  relayer: asked.get('relayer') ?? 'http://127.0.0.1:7700',
  /** The relayer's identity, from elsewhere than the relayer: no other promise is believed. */
  identity: asked.get('identity') || undefined,
  /** The visitor's own node: it must not be the relayer's word. */
  rpc: asked.get('rpc') ?? 'http://127.0.0.1:8545',
  chainId: Number(asked.get('chain') ?? 31337),
  guestbook: (asked.get('guestbook') ?? '0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512') as `0x${string}`,
  /** Blocks after which this page calls an entry final. */
  depth: Number(asked.get('depth') ?? 2),
  blockTimeMs: Number(asked.get('blockTimeMs') ?? 1000),
}
