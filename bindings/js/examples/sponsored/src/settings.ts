/**
 * What this page trusts: the addresses of `slackwater dev`. In a page of your own put yours here, and the relayer's and the
 * node's into `connect-src` of `index.html`.
 */
const OWN: Record<string, string> = {
  /** The relayer. */
  relayer: 'http://127.0.0.1:7700',
  /** The relayer's identity, from elsewhere than the relayer: no other promise is believed. `slackwater dev` makes a new one. */
  identity: '',
  /** The visitor's own node: it must not be the relayer's word. */
  rpc: 'http://127.0.0.1:8545',
  /** The forwarder, which the relayer must not choose. */
  forwarder: '0x5FbDB2315678afecb367f032d93F642f64180aa3',
  guestbook: '0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512',
  chain: '31337',
  /** Blocks after which this page calls an entry final. */
  depth: '2',
  blockTimeMs: '1000',
}

/**
 * A link must not choose what its reader trusts: it could make "your own node" the attacker's. So only a page of this machine,
 * such as the demonstration's, takes addresses from its own (`?relayer=…&rpc=…`), and it says so.
 */
const isLocal = ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname)
const asked = new URLSearchParams(isLocal ? location.search : '')

/** What the link has chosen. */
export const linked = Object.keys(OWN).filter((name) => asked.has(name) && asked.get(name) !== OWN[name])

const value = (name: string) => asked.get(name) ?? OWN[name] ?? ''

export const settings = {
  relayer: value('relayer'),
  identity: value('identity') || undefined,
  rpc: value('rpc'),
  forwarder: value('forwarder'),
  guestbook: value('guestbook') as `0x${string}`,
  chainId: Number(value('chain')),
  depth: Number(value('depth')),
  blockTimeMs: Number(value('blockTimeMs')),
}
