// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// @title Many calls in one transaction, each with a gas cap of its own.
/// @notice All calls run, each with exactly its cap, or none does and the transaction reverts. Which of the two depends on
/// the transaction's gas limit and on `calls`, never on what a target does: one that fails, burns its gas, returns
/// megabytes or calls back takes nothing from the others.
/// @dev Targets see this contract as their caller, and anybody may use it: give it no role, no allowance and no tokens.
/// It has no owner and no storage, and takes no value.
contract CappedCalls {
    struct Call {
        address target;
        /// The call gets this much, no more and no less.
        uint256 gas;
        bytes data;
    }

    /// @notice Call `index` ended. Calls that a target makes from within carry that target as `caller`.
    /// @param success False if it reverted, ran out of its gas, or if `target` has no code.
    event Executed(address indexed caller, address indexed target, uint256 index, bool success);

    /// @notice The gas that is left can't give the calls up to `index` their caps. Nothing was executed.
    error InsufficientGas(uint256 index);

    /// @dev What a call costs at most beside its own gas, the share that EIP-150 keeps back and one gas per byte of data
    /// (copying and memory): two cold accounts, the target and the code that it delegates to, the event, and about as
    /// much as half of that for forks with other prices.
    uint256 private constant OVERHEAD = 12_000;

    /// @notice Makes `calls` in order.
    function execute(Call[] calldata calls) external {
        unchecked {
            uint256 count = calls.length;
            uint256 needed = 0;
            for (uint256 i = 0; i < count; ++i) {
                Call calldata c = calls[i];
                uint256 cap = c.gas;
                // A cap beyond what is left can't overflow the sum.
                if (cap > gasleft() || (needed += _need(cap, c.data.length)) > gasleft()) revert InsufficientGas(i);
            }
            for (uint256 i = 0; i < count; ++i) {
                if (needed > gasleft()) revert InsufficientGas(i);
                Call calldata c = calls[i];
                (address target, uint256 cap, bytes calldata data) = (c.target, c.gas, c.data);
                needed -= _need(cap, data.length);
                emit Executed(msg.sender, target, i, target.code.length != 0 && _call(target, cap, data));
            }
        }
    }

    /// @dev Gas that must be there before a call, so that it gets its cap and the next ones theirs.
    function _need(uint256 cap, uint256 length) private pure returns (uint256) {
        unchecked {
            return cap + cap / 63 + length + OVERHEAD;
        }
    }

    /// @dev Leaves what is returned where it is: this contract would pay for the copy.
    function _call(address target, uint256 cap, bytes calldata data) private returns (bool success) {
        assembly ("memory-safe") {
            let start := mload(0x40)
            calldatacopy(start, data.offset, data.length)
            success := call(cap, target, 0, start, data.length, 0, 0)
        }
    }
}
